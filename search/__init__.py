"""What is done: the training loop, the surgery, the runners, the record, the export and the command line."""

from __future__ import annotations

import sys
from pathlib import Path

from search.installation import check_installation

# Here, so that nobody meets a stranger's `spaces` as a puzzling import error somewhere further in. The command checks
# for itself, and says it in one line.
if Path(sys.argv[0]).stem != "pleach":
    check_installation()
