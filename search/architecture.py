"""The finalized network as data: its graph, its modules and the tensors they need, JSON-able, without a line of code.

Reading builds the network from literal lists of functions and modules; nothing that a file names is imported, and no
text of a file is run: torch.fx writes Python from a graph, so every name is checked before it gets there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from search.artifact.encoding import decode, encode
from search.artifact.modules import declare_modules, describe_modules
from search.artifact.names import identifier, shown, split
from search.artifact.targets import ATTRIBUTES, check_method, function_name, function_named
from search.artifact.tensors import declare_tensors, describe_tensors, fill, tensors, ties
from spaces.errors import ExportError

SCHEMA = 1
#: What `read_architecture` takes of memory unless told otherwise.
LIMIT_BYTES = 8 * 2**30
_NODES = 200_000
_KEYS = {"schema", "nodes", "modules", "tensors", "ties"}


def write_architecture(network: fx.GraphModule) -> dict[str, Any]:
    """Describe a traced network.

    Returns:
        ``{schema, nodes, modules, tensors, ties}``: the nodes of the graph in order; class and arguments of every leaf
        module by qualified name; shape, type and kind of every tensor; which tensors are one under two names.

    Raises:
        ExportError: If the network calls a function or holds a module that a file must not name.
    """
    if network._forward_hooks or network._forward_pre_hooks:
        raise ExportError("a stored network must compute what its graph says, but has a hook: remove it")
    graph = _in_single_calls(network)
    data = {
        "schema": SCHEMA,
        "nodes": [_write_node(node) for node in graph.nodes],
        "modules": describe_modules(network, graph),
        "tensors": describe_tensors(network),
        "ties": ties(network),
    }
    # What cannot be read again must not be written.
    build_architecture(data)
    return data


def read_architecture(data: object, *, limit: int = LIMIT_BYTES) -> nn.Module:
    """Build the network that `write_architecture` described, in evaluation mode, all tensors zero.

    Args:
        data: From JSON, trusted in nothing.
        limit: The most bytes that its tensors may take.

    Raises:
        ExportError: If the description breaks a rule or asks for more than the limit.
    """
    network = build_architecture(data)
    tied = ties(network)
    needed = {name: tensor for name, tensor in tensors(network).items() if name not in tied}
    size = sum(tensor.numel() * tensor.element_size() for tensor in needed.values())
    if size > limit:
        raise ExportError(f"the tensors of a stored network may take {limit} bytes, but take {size}: raise the limit")
    fill(network, {name: torch.zeros_like(tensor, device="cpu") for name, tensor in needed.items()})
    return network


def build_architecture(data: object) -> fx.GraphModule:
    """The described network on the meta device: right in every shape, without a byte of weights; `fill` puts them in.

    Raises:
        ExportError: If the description breaks a rule.
    """
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ExportError(f"an architecture's schema must be {SCHEMA}, but is another: export it again")
    if set(data) != _KEYS:
        raise ExportError(f"an architecture must hold {', '.join(sorted(_KEYS))}, but does not: export it again")
    root = nn.Module()
    declare_modules(root, data["modules"])
    declare_tensors(root, data["tensors"], data["ties"])
    graph = _read_graph(data["nodes"], set(data["modules"]), set(data["tensors"]))
    try:
        network = fx.GraphModule(root, graph)
    # Here the code of the graph is made and compiled; arguments that fit no call fail in many ways.
    except Exception as error:
        raise ExportError(
            f"the stored graph makes no network ({' '.join(str(error).split())}): export again"
        ) from error
    # GraphModule takes only what the graph reads; unused layers belong to the state as well.
    network._parameters, network._buffers, network._modules = root._parameters, root._buffers, root._modules
    network._non_persistent_buffers_set = root._non_persistent_buffers_set
    return network.eval()


def _in_single_calls(network: fx.GraphModule) -> fx.Graph:
    """The graph, with every call of a whole ``Sequential`` written as the calls that it makes."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(network.graph, {}))
    waiting = [node for node in graph.nodes if node.op == "call_module"]
    while waiting:
        node = waiting.pop()
        module = network.get_submodule(str(node.target))
        if type(module) is nn.Sequential and not module._forward_hooks and not module._forward_pre_hooks:
            (value,) = node.args
            with graph.inserting_before(node):
                for name in module._modules:
                    value = graph.call_module(f"{node.target}.{name}", (value,))
                    waiting.append(value)
            node.replace_all_uses_with(value)
            graph.erase_node(node)
    return graph


def _write_node(node: fx.Node) -> dict[str, Any]:
    target: str
    if node.op == "call_function":
        target = function_name(node.target)
        if node.target is getattr:
            _check_getattr(node.args, node.kwargs)
    else:
        target = check_method(node.target) if node.op == "call_method" else str(node.target)
    return {
        "op": node.op,
        "name": node.name,
        "target": target,
        "args": encode(tuple(node.args)),
        "kwargs": encode(dict(node.kwargs)),
    }


def _read_graph(data: object, modules: set[str], named: set[str]) -> fx.Graph:
    if not isinstance(data, list) or not 0 < len(data) <= _NODES:
        raise ExportError(f"a stored graph must be a list of at most {_NODES} nodes, but is not: export it again")
    graph, nodes = fx.Graph(), dict[str, fx.Node]()
    for i, each in enumerate(data):
        if not isinstance(each, dict) or set(each) != {"op", "name", "target", "args", "kwargs"}:
            raise ExportError("a stored node must be {op, name, target, args, kwargs}, but one is not: export it again")
        name = identifier(each["name"])
        args, kwargs = decode(each["args"], nodes), decode(each["kwargs"], nodes)
        if not isinstance(args, tuple) or not isinstance(kwargs, dict):
            raise ExportError(
                f"a stored node's arguments must be a tuple and a dict, but {name}'s are not: export again"
            )
        for key in kwargs:
            identifier(key)
        target = _read_target(each["op"], each["target"], args, kwargs, modules, named)
        if (each["op"] == "output") != (i == len(data) - 1):
            raise ExportError("a stored graph must end with its one output, but does not: export it again")
        nodes[name] = graph.create_node(each["op"], target, args, kwargs, name)
        if nodes[name].name != name:
            raise ExportError(f"a stored node must have a name of its own, but {name} is taken: rename it")
    return graph


def _read_target(
    op: object, target: object, args: tuple[Any, ...], kwargs: Mapping[str, Any], modules: set[str], named: set[str]
) -> Any:
    if not isinstance(target, str):
        raise ExportError("a stored node's target must be a name, but is none: export it again")
    if op == "call_function":
        function = function_named(target)
        if function is getattr:
            _check_getattr(args, kwargs)
        return function
    if op == "call_method" and args and isinstance(args[0], fx.Node):
        return check_method(target)
    if op == "call_module" and target in modules:
        split(target)
        return target
    if op == "get_attr" and target in named and not args and not kwargs:
        split(target)
        return target
    if op == "placeholder" and identifier(target) and not kwargs and _constants(args):
        return target
    if op == "output" and target == "output" and len(args) == 1 and not kwargs:
        return target
    raise ExportError(
        f"a stored node must be one that torch.fx makes, but one is {shown(op)} of {shown(target)}: export it again"
    )


def _constants(args: tuple[Any, ...]) -> bool:
    """Whether an input's arguments are what they may be: a default value, which is no traced one."""
    return len(args) <= 1 and not any(isinstance(each, fx.Node | tuple | list | dict | slice) for each in args)


def _check_getattr(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    if len(args) != 2 or kwargs or not isinstance(args[0], fx.Node) or str(args[1]) not in ATTRIBUTES:
        raise ExportError(
            f"a stored graph may read shape, dtype and such of a tensor, but reads {shown(args[1:])}: use a module"
        )
