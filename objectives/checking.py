"""One validating pass over a task: what would otherwise fail in the middle of a study fails here, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import torch
from torch import Tensor, nn

from objectives.maskable import maskable
from objectives.mode import evaluating
from objectives.task import Batch, Inputs, Split, Task, call, samples
from spaces.errors import PleachError, TaskError


def check_task(task: Task) -> None:
    """Run one batch of every split through the network and see that all that comes back can be used.

    Raises:
        TaskError: If the network is none, is shared between calls or has nothing to compress; if the example inputs do
            not run; if batches are empty, malformed or do not repeat; if the loss is no finite scalar with a gradient;
            if the score is not one finite value per sample.
    """
    network = _network(task)
    _check_inputs(task, network)
    for split in get_args(Split):
        _check_split(task, network, split)


def _network(task: Task) -> nn.Module:
    with _step("network()"):
        network, again = task.network(), task.network()
    if not isinstance(network, nn.Module):
        raise TaskError(f"network() must return a torch.nn.Module, but returned {_kind(network)}: return the network")
    if network is again:
        raise TaskError("network() must return a new copy each time, but returned the same object twice: copy it")
    devices = {parameter.device.type for parameter in network.parameters()}
    if devices - {"cpu"}:
        raise TaskError(f"network() must be on the CPU, but is on {', '.join(sorted(devices))}: the trial moves it")
    if not maskable(network):
        raise TaskError(
            "network() must have a convolution, linear, recurrent or attention layer, but has none: "
            "there is nothing to compress"
        )
    return network


def _check_inputs(task: Task, network: nn.Module) -> None:
    with _step("example_inputs()"):
        inputs = task.example_inputs()
    if not isinstance(inputs, tuple) or not inputs:
        raise TaskError(f"example_inputs() must return a tuple of tensors, but returned {_kind(inputs)}: write (x,)")
    for value in inputs:
        if not isinstance(value, Tensor):
            raise TaskError(f"example_inputs() must hold only tensors, but holds {_kind(value)}: convert it")
        if value.dim() < 1 or value.shape[0] < 2:
            raise TaskError(
                f"example_inputs() must have a batch of at least 2 in dimension 0, but has the shape "
                f"{tuple(value.shape)}: stack two samples"
            )
    with _step("network(*example_inputs())"), evaluating(network):
        call(network, inputs)


def _check_split(task: Task, network: nn.Module, split: Split) -> None:
    seed = 0 if split == "train" else None
    inputs, targets = batch = _first_batch(task, split, seed)
    if not _equal(batch, _first_batch(task, split, seed)):
        raise TaskError(
            f"batches({split!r}, shuffle_seed={seed}) must be the same each time, but are not: "
            "draw from a generator seeded with shuffle_seed"
        )
    count = samples(inputs)
    network.eval()
    with _step(f"the network on a {split} batch"):
        outputs = call(network, inputs)
    with _step("loss"):
        loss = task.loss(outputs, targets)
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        raise TaskError(f"loss must return a scalar tensor, but returned {_kind(loss)}: take the mean over the batch")
    if not bool(torch.isfinite(loss)):
        raise TaskError(
            f"loss must be finite on the trained network, but is {float(loss.detach())} on {split}: check the data"
        )
    if not loss.requires_grad:
        raise TaskError("loss must have a gradient, but has none: do not detach the outputs or freeze every parameter")
    with _step("score"), torch.no_grad():
        scores = task.score(outputs.detach(), targets)
    if not isinstance(scores, Tensor) or scores.shape != (count,):
        raise TaskError(f"score must return one value per sample, ({count},) here, but returned {_kind(scores)}")
    if not bool(torch.isfinite(scores.double()).all()):
        raise TaskError(f"score must be finite on the trained network, but is not on {split}: check the data")


def _first_batch(task: Task, split: Split, seed: int | None) -> Batch:
    with _step(f"batches({split!r})"):
        batch = next(iter(task.batches(split, shuffle_seed=seed)), None)
    if batch is None:
        raise TaskError(f"batches({split!r}) must give at least one batch, but gives none: check the split")
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise TaskError(f"batches({split!r}) must give (inputs, targets), but gives {_kind(batch)}: pair them")
    inputs, targets = batch
    held = _tensors(inputs)
    if not held or not all(isinstance(value, Tensor) and value.dim() > 0 for value in held):
        raise TaskError(
            f"the inputs of batches({split!r}) must be a tensor, or a tuple or dict of tensors, with the batch in "
            f"dimension 0, but are {_kind(inputs)}: convert them"
        )
    if not isinstance(targets, Tensor):
        raise TaskError(f"the targets of batches({split!r}) must be a tensor, but are {_kind(targets)}: convert them")
    if any(value.device.type != "cpu" for value in (*held, targets)):
        raise TaskError(f"batches({split!r}) must be on the CPU, but are not: the trial moves them")
    return inputs, targets


def _tensors(inputs: Inputs) -> list[Tensor]:
    if isinstance(inputs, dict):
        return list(inputs.values())
    return list(inputs) if isinstance(inputs, tuple) else [inputs]


def _equal(one: Batch, other: Batch) -> bool:
    pairs = zip([*_tensors(one[0]), one[1]], [*_tensors(other[0]), other[1]], strict=True)
    # NaN equals itself here: it is not the order that is wrong then, and the loss will say so.
    return all(a.shape == b.shape and bool(((a == b) | (a != a)).all()) for a, b in pairs)


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return type(value).__name__


@contextmanager
def _step(what: str) -> Iterator[None]:
    """Say which step of the user's code failed."""
    try:
        yield
    except PleachError:
        raise
    except Exception as error:  # the user's code may raise anything
        message = f"{what} must run, but raised {type(error).__name__}: {error}"
        raise TaskError(" ".join(message.split())) from error
