"""Without the optional package the task says what to install; nothing else needs it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from objectives.loading import load_task
from spaces.errors import TaskError


def test_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    # None in sys.modules is Python's own way to make an import fail.
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(TaskError, match=r"install Pleach with the extra transformers, as in pip install") as caught:
        load_task("transformers", {"kind": "causal-lm", "config": {"model_type": "gpt2"}})
    assert "\n" not in str(caught.value)


def test_the_package_is_imported_only_where_a_task_of_its_kind_is_made() -> None:
    script = """if True:
        import sys
        import objectives.tasks.transformers
        from objectives.loading import load_task
        load_task("tabular")
        assert "transformers" not in sys.modules
        assert "huggingface_hub" not in sys.modules
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
