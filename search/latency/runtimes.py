"""A network made ready for a runtime: what is timed is the call alone, not its preparation."""

from __future__ import annotations

import copy
import functools
import importlib.util
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from search.formats.onnx_file import Session, to_onnx
from search.formats.onnx_file import missing as onnx_missing
from search.latency.batching import batch_of
from search.latency.clock import Call
from search.latency.setting import RUNTIMES, RuntimeName, Setting
from spaces.errors import ExportError

__all__ = ["RUNTIMES", "default_runtime", "ready", "threads_of_torch", "unavailable"]


def unavailable(runtime: RuntimeName, device: str = "cpu") -> str:
    """Why a runtime cannot be timed on this machine, one line; "" where it can."""
    if runtime == "onnxruntime":
        if device != "cpu":
            return "onnxruntime is timed on the CPU only"
        return onnx_missing()
    if runtime == "compile" and device == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        return "torch.compile needs a C++ compiler, but there is none: install g++"
    if runtime == "compile" and device != "cpu" and importlib.util.find_spec("triton") is None:
        return "torch.compile on CUDA needs triton, but it is not installed"
    return ""


def default_runtime(device: str = "cpu") -> RuntimeName:
    """The runtime of a setting that names none: onnxruntime where it is installed, else PyTorch itself."""
    return "eager" if unavailable("onnxruntime", device) else "onnxruntime"


def ready(network: nn.Module, inputs: tuple[Tensor, ...], setting: Setting, *, onnx: bytes | None = None) -> Call:
    """A call of the network on a batch, warmed up far enough that it compiles nothing any more.

    Args:
        network: In evaluation mode.
        inputs: Example inputs; dimension 0 is repeated or cut to the batch.
        setting: Runtime, batch, threads and device.
        onnx: The network as ONNX where it is at hand already.

    Raises:
        ExportError: If the network does not run there.
    """
    lacking = unavailable(setting.runtime, setting.device)
    if lacking:
        raise ExportError(f"the runtime {setting.runtime} cannot be timed here: {lacking}")
    if setting.runtime == "onnxruntime":
        return _in_onnxruntime(onnx if onnx is not None else to_onnx(network, inputs), inputs, setting)
    values = tuple(x.to(setting.device) for x in batch_of(inputs, setting.batch))
    # Of a copy, for a network that is timed elsewhere stays where it is.
    network = (network if setting.device == "cpu" else copy.deepcopy(network).to(setting.device)).eval()
    called: Callable[..., object] = network
    if setting.runtime == "compile":
        torch.compiler.reset()
        called = torch.compile(network, dynamic=False)
    return _first(functools.partial(_without_gradients, called, values), setting.runtime)


@contextmanager
def threads_of_torch(threads: int) -> Iterator[None]:
    """PyTorch's own number of threads, which is the process's, for the length of a block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _in_onnxruntime(data: bytes, inputs: tuple[Tensor, ...], setting: Setting) -> Call:
    session = Session(data, setting.threads)
    fixed = session.batch
    if fixed is not None and fixed != setting.batch:
        raise ExportError(f"this network's ONNX form takes a batch of {fixed} only, not {setting.batch}")
    feed = session.feed(batch_of(inputs, setting.batch))
    return _first(functools.partial(session.run, feed), "onnxruntime")


def _without_gradients(network: Callable[..., object], inputs: tuple[Tensor, ...]) -> object:
    with torch.inference_mode():
        return network(*inputs)


def _first(call: Call, runtime: str) -> Call:
    """The call, after it has run once: compilers fail on the first one, each in its own way."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()
    except Exception as error:
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ExportError(f"the network does not run on {runtime} ({said})") from error
    return call
