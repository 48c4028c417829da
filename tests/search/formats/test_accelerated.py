"""Forms for accelerators: refused in one line where there is none, close to bfloat16 where there is one."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from search.formats.accelerated import FORMS, accelerated, two_of_four, unavailable
from spaces.errors import ExportError

GPU = torch.cuda.is_available()


def test_two_of_four_keeps_the_larger_two_and_what_fits_already() -> None:
    weight = torch.tensor([[1.0, -3.0, 2.0, 0.5, 0.0, 0.0, 5.0, 4.0]])
    kept = two_of_four(weight)
    assert kept.tolist() == [[0.0, -3.0, 2.0, 0.0, 0.0, 0.0, 5.0, 4.0]]
    assert torch.equal(two_of_four(kept), kept)


@pytest.mark.skipif(GPU, reason="here is a GPU")
@pytest.mark.parametrize("form", list(FORMS))
def test_without_a_gpu_every_form_is_refused_in_one_line(form: str) -> None:
    assert unavailable(form) == "it needs a GPU, but PyTorch finds none"
    with pytest.raises(ExportError, match="PyTorch finds none"):
        accelerated(nn.Linear(128, 128), form)


def test_an_unknown_form_is_named() -> None:
    assert "there is no form 'int3'" in unavailable("int3")


@pytest.mark.skipif(not GPU, reason="needs a GPU")
@pytest.mark.parametrize(
    ("form", "tolerance"), [("bf16", 0.0), ("int8", 0.05), ("int4", 0.2), ("fp8", 0.08), ("2:4", 0.02)]
)
def test_a_form_computes_what_bfloat16_does_within_its_rounding(form: str, tolerance: float) -> None:
    if reason := unavailable(form):
        pytest.skip(reason)
    layers = nn.Linear(256, 256), nn.Linear(256, 256)
    network = nn.Sequential(layers[0], nn.ReLU(), layers[1])
    if form == "2:4":
        for layer in layers:
            layer.weight = nn.Parameter(two_of_four(layer.weight.detach()))
    x = torch.randn(64, 256, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        expected = accelerated(copy.deepcopy(network), "bf16")(x)
        found = accelerated(network, form)(x)
    assert float((found - expected).norm() / expected.norm()) <= tolerance


@pytest.mark.skipif(GPU, reason="here is a GPU")
def test_the_benchmark_says_that_there_is_no_gpu() -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-m", "tests.benchmarks.gpu"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == "there is no GPU that PyTorch can use: run this where there is one"
