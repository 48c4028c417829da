"""The leaf modules of a network by qualified name, as data and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import fx, nn

from search.artifact.constructors import build, describe, is_known
from search.artifact.names import add, container, split
from search.surgery.tracing import changes_nothing_in_evaluation
from spaces.errors import ExportError


def describe_modules(network: nn.Module, graph: fx.Graph | None = None) -> dict[str, dict[str, Any]]:
    """Class and constructor arguments of every leaf module, JSON-able.

    A module that only training needs (drop path) is stored as the identity that it is in evaluation.

    Args:
        network: Whose modules.
        graph: What it computes; every module that it calls must be described. None: those that can be are.

    Raises:
        ExportError: If the graph calls a module that a file cannot hold.
    """
    called = {str(node.target) for node in graph.nodes if node.op == "call_module"} if graph is not None else set()
    return dict(_described(network, "", called))


def declare_modules(root: nn.Module, described: object) -> None:
    """Build the leaf modules on the meta device, and the containers that their names ask for.

    Args:
        root: Empty.
        described: What `describe_modules` gave, from JSON, trusted in nothing.

    Raises:
        ExportError: If the description breaks a rule.
    """
    if not isinstance(described, dict):
        raise ExportError("an architecture's modules must be an object, but are not: export it again")
    for name, data in described.items():
        path, atom = split(name)
        add(container(root, path, name), atom, build(data), name)


def replace_modules(network: nn.Module, described: Mapping[str, Any]) -> None:
    """Put modules where a network has the same ones in other sizes.

    Args:
        network: Of the class that the description was made from; edited in place.
        described: What `describe_modules` gave.

    Raises:
        ExportError: If the network has no such module.
    """
    for name, data in described.items():
        path, atom = split(name)
        try:
            owner = network.get_submodule(".".join(path))
            present = owner.get_submodule(atom)
        except AttributeError:
            raise ExportError(
                f"the network must have a module {name}, but has none: give one of the same class"
            ) from None
        if not is_known(present) or describe(present) != data:
            setattr(owner, atom, build(data))


def _described(module: nn.Module, name: str, called: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    if name and is_known(module):
        yield name, describe(module)
    elif name in called:
        if not changes_nothing_in_evaluation(module):
            describe(module)
        yield name, describe(nn.Identity())
    else:
        for atom, child in module._modules.items():
            if child is not None:
                yield from _described(child, f"{name}.{atom}" if name else atom, called)
