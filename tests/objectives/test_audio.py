"""A task of one's own on sound, as the docs show it: loaded from its file, checked, and compressed in every grain."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from objectives.accuracy import mean_score
from objectives.checking import check_task
from objectives.loading import load_task, task_source
from objectives.task import Task
from search.installation import ROOT
from search.surgery.graph import trace
from tests.objectives.compressing import PRUNINGS, compressed

PAGE = ROOT / "docs" / "tasks.md"


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    (example,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    file: Path = tmp_path_factory.mktemp("audio") / "tones.py"
    file.write_text(example, encoding="utf-8")
    target = f"{file}:Tones"
    source = task_source(target)
    file.unlink()  # what travels to the workers is the text
    return load_task(target, {"length": 256}, source)


def test_the_example_of_the_docs_is_a_task_that_knows_its_tones(task: Task) -> None:
    check_task(task)
    assert task.example_inputs()[0].shape == (2, 1, 256)
    assert mean_score(task.network(), task, "test") > 0.9


def test_torch_fx_traces_it(task: Task) -> None:
    network = task.network()
    traced = trace(network, task.example_inputs()).eval()
    sounds = torch.randn(5, 1, 256)
    with torch.no_grad():
        assert torch.equal(traced(sounds), network(sounds))


@pytest.mark.parametrize("granularity", PRUNINGS)
def test_it_is_compressed(task: Task, granularity: str) -> None:
    result = compressed(task, PRUNINGS[granularity], epochs=4)
    assert result.scores["accuracy"] > 0.8
    convolutions = [module for module in result.network.modules() if isinstance(module, nn.Conv1d)]
    if granularity == "nm":
        weight_OIT = convolutions[1].weight.detach()
        groups = weight_OIT.transpose(1, 2).reshape(-1, 4)
        assert int((groups != 0).sum(dim=1).max()) <= 2
    if granularity == "channel":
        assert convolutions[0].out_channels < 16
        assert convolutions[1].in_channels == convolutions[0].out_channels
        assert result.scores["macs"] < 0.7 * result.baseline["macs"]
