"""Names of modules and tensors in a file: checked before they become attributes of a network or text of its code."""

from __future__ import annotations

import keyword
import re

from torch import fx, nn

from spaces.errors import ExportError

_ATOM = re.compile(r"[A-Za-z0-9_-]{1,200}", re.ASCII)
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}", re.ASCII)
_DEPTH = 64
#: Names that the code of a graph uses itself.
_TAKEN = ("self", "torch")


def split(name: object) -> tuple[tuple[str, ...], str]:
    """The path and the last part of a qualified name: ``layer1.0.conv1`` is ``(("layer1", "0"), "conv1")``.

    Raises:
        ExportError: If it is not a name that a network can have.
    """
    atoms = name.split(".") if isinstance(name, str) else [""]
    if len(atoms) > _DEPTH or not all(_ATOM.fullmatch(atom) and not keyword.iskeyword(atom) for atom in atoms):
        raise ExportError(
            f"a stored module or tensor must have a name of letters, digits, - and _ with dots between, but one has "
            f"{shown(name)}: rename it"
        )
    if hasattr(fx.GraphModule, atoms[0]):
        raise ExportError(
            f"a stored module must not be called {atoms[0]!r}, which torch.fx keeps for itself: rename it"
        )
    return tuple(atoms[:-1]), atoms[-1]


def identifier(name: object) -> str:
    """A name that may stand in Python code, as it is.

    Raises:
        ExportError: If it may not.
    """
    if not isinstance(name, str) or not _IDENTIFIER.fullmatch(name) or keyword.iskeyword(name) or name in _TAKEN:
        raise ExportError(f"a stored node must be called by an identifier, but is called {shown(name)}: rename it")
    return name


def container(root: nn.Module, path: tuple[str, ...], name: str) -> nn.Module:
    """The module at a path, made where there is none; it may be a leaf module only at the very end.

    Raises:
        ExportError: If the path leads through what is no container.
    """
    found = root
    for atom in path:
        child = found._modules.get(atom)
        if child is None:
            if type(found) is not nn.Module:
                raise ExportError(f"{name} lies inside a module that has no such part: do not trust this file")
            child = nn.Module()
            add(found, atom, child, name)
        found = child
    return found


def add(owner: nn.Module, atom: str, child: nn.Module, name: str) -> None:
    """Install a module under a name that is free.

    Raises:
        ExportError: If it is not free.
    """
    if atom in owner._modules or type(owner) is not nn.Module:
        raise ExportError(
            f"a network holds one module per name, but {name} is stored twice or inside another: export again"
        )
    try:
        owner.add_module(atom, child)
    except KeyError as error:
        raise ExportError(f"a module cannot be called {name}, which its owner keeps for itself: rename it") from error


def shown(value: object) -> str:
    """What a file says, cut to what fits a line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
