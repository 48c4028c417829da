"""The network as a graph: traced once, in both modes; `search.surgery.layout` says where its layers are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from objectives.maskable import CONVOLUTIONS
from search.surgery.attention import NarrowAttention
from search.surgery.modes import ByMode, DifferenceError, Path, Traced, by_mode, install, same
from search.surgery.tracing import (
    NetworkTracer,
    UntraceableError,
    changes_nothing_in_evaluation,
    is_leaf,
    module_of,
    user_line,
)
from spaces.errors import NetworkError, TraceError

_LAYERS = (*CONVOLUTIONS, nn.Linear, nn.Embedding, nn.EmbeddingBag)
Inputs = tuple[Tensor, ...]
Leaves = tuple[type[nn.Module], ...]
#: Where a traced network keeps whose trace it is.
_CLASS = "pleach.class"
#: What to do about a network that cannot be traced.
REMEDY = "rewrite that line, or stay with radius 0 and single weights or N:M, which still work"


def trace(network: nn.Module, example_inputs: Inputs, *, leaves: Leaves = ()) -> fx.GraphModule:
    """Trace a network in training and in evaluation mode and make one graph of both.

    What differs between the modes survives: dropout written as a function becomes a dropout module, other constants
    become a `ByMode` module, and a module without state that does nothing in evaluation (drop path) stays as it is.
    Questions about shapes (``if x.dim() == 3``) are answered for the shapes of the example inputs, but never for their
    number of samples: that must not matter.

    Args:
        network: Left as it is; the traced network shares its parameters, buffers and leaf modules.
        example_inputs: ``network(*example_inputs)`` runs in both modes; dimension 0 is the batch (at least 2).
        leaves: Classes of modules that stay modules, beside those of ``torch.nn``.

    Returns:
        A GraphModule with the network's state-dict keys, its per-module modes and bitwise its outputs.

    Raises:
        TraceError: If the network does what a graph cannot express; the message names the place.
        NetworkError: If the network does not run on the example inputs.
    """
    for name in network._modules:
        if hasattr(fx.GraphModule, name):
            raise TraceError(f"a submodule must not be called {name!r}, which torch.fx keeps for itself: rename it")
    expected = {training: _outputs(network, example_inputs, training) for training in (False, True)}
    try:
        traced = _trace(network, example_inputs, (ByMode, NarrowAttention, *leaves))
        for training, outputs in expected.items():
            _check_outputs(outputs, traced, example_inputs, training)
    except UntraceableError as error:
        place = f"submodule {error.module!r}" if error.module else "network"
        line = f" ({error.line})" if error.line else ""
        raise TraceError(
            f"the {place} must be traceable by torch.fx, but is not{line}: {error.reason}: {REMEDY}"
        ) from error
    return traced


def class_of(network: nn.Module) -> str:
    """``package.module:Class`` of a network; of a traced one, of the network that was traced."""
    if isinstance(network, fx.GraphModule):
        return str(network.meta.get(_CLASS, "torch.fx:GraphModule"))
    return f"{type(network).__module__}:{type(network).__qualname__}"


def _trace(network: nn.Module, inputs: Inputs, leaves: Leaves) -> fx.GraphModule:
    while True:
        places: tuple[str, ...]
        try:
            evaluation = _trace_once(network, inputs, leaves, training=False)
            training = _trace_once(network, inputs, leaves, training=True)
            return _assembled(network, evaluation, by_mode(training, evaluation), leaves)
        except DifferenceError as error:
            places = (module_of(error.node), module_of(error.other))
            reason = "it does something else in training than in evaluation, by more than a constant"
            why = UntraceableError(reason, places[1], user_line(error.other) or user_line(error.node))
        except _RandomError as error:
            places = (error.module,)
            why = UntraceableError("it draws random numbers whose number does not follow from an input", error.module)
        kept = _only_in_training(network, places, leaves)
        if kept is None:
            raise why
        leaves = (*leaves, kept)


class _RandomError(Exception):
    """A trace drew random numbers, which it would repeat for ever."""

    def __init__(self, module: str) -> None:
        super().__init__(module)
        self.module = module


def _trace_once(network: nn.Module, inputs: Inputs, leaves: Leaves, *, training: bool) -> Traced:
    with _mode(network, training), torch.random.fork_rng(devices=[]):
        random = torch.get_rng_state()
        tracer = NetworkTracer(inputs, leaves)
        traced = Traced(*tracer.graph_of(network))
        if not torch.equal(random, torch.get_rng_state()):
            raise _RandomError(tracer.random_in or "")
        if tracer.asked_for_shapes:
            # What was answered from the example inputs must not be the number of samples.
            longer = tuple(torch.cat([x, x[:1]]) if x.dim() else x for x in inputs)
            try:
                same(traced, Traced(*NetworkTracer(longer, leaves).graph_of(network)))
            except DifferenceError as error:
                reason = "what it does depends on the number of samples in the batch"
                raise UntraceableError(reason, module_of(error.node), user_line(error.node)) from error
    return traced


def _only_in_training(network: nn.Module, places: Iterable[str], leaves: Leaves) -> type[nn.Module] | None:
    """The class of the innermost module around a place that may stay a module because evaluation skips it."""
    for place in places:
        atoms = place.split(".") if place else []
        for depth in range(len(atoms), 0, -1):
            module = network.get_submodule(".".join(atoms[:depth]))
            if not is_leaf(module, leaves) and changes_nothing_in_evaluation(module):
                return type(module)
    return None


# -- putting it together ---------------------------------------------------------------------------------------------


def _assembled(
    network: nn.Module, traced: Traced, differing: Mapping[fx.Node, Mapping[Path, ByMode]], leaves: Leaves
) -> fx.GraphModule:
    bare = _bare(network, leaves, {})
    _install_tensors(network, traced, bare)
    install(traced.graph, differing, bare, _free("functional", network))
    module = fx.GraphModule(bare, traced.graph, type(network).__name__)
    # GraphModule takes only what the graph reads, in the order in which it is read; the state must stay as it was.
    module._parameters = bare._parameters
    module._buffers = bare._buffers
    module._modules = bare._modules
    module.training = network.training
    module.meta[_CLASS] = class_of(network)
    return module


def _bare(module: nn.Module, leaves: Leaves, known: dict[nn.Module, nn.Module], depth: int = 0) -> nn.Module:
    """The same tree with the same leaf modules, parameters and buffers; what was traced through is a bare module."""
    if depth and is_leaf(module, leaves):
        return module
    if module not in known:
        known[module] = copy = _shell(module) if depth else nn.Module()
        copy.training = module.training
        for name, parameter in module._parameters.items():
            copy.register_parameter(name, parameter)
        for name, buffer in module._buffers.items():
            lasting = name not in module._non_persistent_buffers_set
            if depth or lasting:
                copy.register_buffer(name, buffer, persistent=lasting)
        for name, child in module._modules.items():
            copy.add_module(name, _bare(child, leaves, known, depth + 1) if child is not None else None)
    return known[module]


def _shell(module: nn.Module) -> nn.Module:
    """A module without tensors that says what its weight is, where a layer of torch.nn has a forward of its own.

    What has been traced through is never called again, but an embedding scaled by its own forward stays an embedding,
    and a convolution so written stays one whose weights are connections.
    """
    kind = next((kind for kind in type(module).__mro__ if kind in _LAYERS), None)
    if kind is None or module._modules or {*module._parameters, *module._buffers} - {"weight", "bias"}:
        return nn.Module()
    shell = kind.__new__(kind)
    nn.Module.__init__(shell)
    own = vars(shell)
    vars(shell).update({name: value for name, value in vars(module).items() if name not in own})
    return shell


def _install_tensors(network: nn.Module, traced: Traced, bare: nn.Module) -> None:
    """Register the tensors that the graph reads and that are no state: plain attributes, and what tracing made."""
    state = set(network.state_dict())
    # They live in a child of their own: when a GraphModule is copied, buffers at its root become state.
    child, constants = _free("constants", network), nn.Module()
    for node in traced.graph.nodes:
        if node.op != "get_attr":
            continue
        target = str(node.target)
        owner, _, name = target.rpartition(".")
        value = traced.constants[target] if target in traced.constants else _find(network, target)
        if not isinstance(value, Tensor):
            raise UntraceableError("it hands a module to a function", module_of(node), user_line(node))
        if not owner and target not in state:
            constants.register_buffer(name, value, persistent=False)
            node.target = f"{child}.{name}"
        elif _find(bare, target) is None:
            bare.get_submodule(owner).register_buffer(name, value, persistent=False)
    if constants._buffers:
        bare.add_module(child, constants)


def _find(root: nn.Module, path: str) -> object:
    found: object = root
    for atom in path.split("."):
        found = getattr(found, atom, None)
    return found


def _free(wanted: str, network: nn.Module) -> str:
    while hasattr(network, wanted) or hasattr(fx.GraphModule, wanted):
        wanted += "_"
    return wanted


@contextmanager
def _mode(network: nn.Module, training: bool) -> Iterator[None]:
    """Put the whole network into one mode, and every module back into its own afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.train(training)
    try:
        yield
    finally:
        for module, before in modes:
            module.training = before


# -- checking it -----------------------------------------------------------------------------------------------------


def _check_outputs(expected: object, traced: fx.GraphModule, inputs: Inputs, training: bool) -> None:
    if not _equal(_outputs(traced, inputs, training), expected):
        mode = "training" if training else "evaluation"
        raise UntraceableError(
            f"its outputs in {mode} mode differ once it is traced, as they do where a tensor is changed in place, "
            "an operation is hidden in a hook, or a type is asked for"
        )


def _outputs(module: nn.Module, inputs: Inputs, training: bool) -> object:
    """Outputs without a trace: buffers, modes and random numbers are afterwards what they were."""
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    with _mode(module, training), torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            return module(*(x.clone() for x in inputs))
        # Somebody else's forward may raise anything.
        except Exception as error:
            mode = "training" if training else "evaluation"
            raise NetworkError(
                f"the network must run on its example inputs in {mode} mode, but raised {type(error).__name__}: "
                f"{' '.join(str(error).split())}: give it inputs that it takes, at least 2 samples"
            ) from error
        finally:
            for buffer, before in buffers:
                buffer.copy_(before)


def _equal(ours: object, theirs: object) -> bool:
    (a, ours_shape), (b, theirs_shape) = pytree.tree_flatten(ours), pytree.tree_flatten(theirs)
    return ours_shape == theirs_shape and all(map(_equal_leaves, a, b))


def _equal_leaves(a: object, b: object) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return a is b or a == b
    return a.shape == b.shape and a.dtype == b.dtype and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
