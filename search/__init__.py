"""What is done: the training loop, the surgery, the runners, the record, the export and the command line."""

from __future__ import annotations

from search.installation import check_installation

# Here, so that nobody meets a stranger's `spaces` as a puzzling import error somewhere further in.
check_installation()
