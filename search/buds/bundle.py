"""A system on disk: a folder of folders, each a network as an export holds it. Nothing is pickled, nothing imported.

router/           system.json (sub-tasks, how requests are routed), router.safetensors, manifest.json
stem/ parent/     architecture.json, model.safetensors, manifest.json
buds/<sub-task>/  the same, and bud.json
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from search.artifact.manifest import read_manifest, verified, write_manifest
from search.artifact.network import WEIGHTS, parsed
from search.buds.route import Router
from search.buds.system import System
from search.export import load as load_network
from search.export import save_network
from search.home import storing
from spaces.errors import ExportError

SYSTEM, ROUTER, BUD = "system.json", "router.safetensors", "bud.json"
SCHEMA = 1
_LARGEST = 4 * 2**20


@dataclass(frozen=True)
class Bud:
    """What is known of a bud beside its network.

    Args:
        parent: `Bundle.identity` of the parent that it grew from.
        subtask: Its sub-task, from 0.
        centre: Where its sub-task lies among the principal directions of the parent's last stages.
        classes: The classes of which it has at least half of the samples.
        macs: Of its tail, per request, the stem not counted.
        parameters: Of its tail.
        scores: ``accuracy``, ``parent_accuracy``, ``whole``, ``share``, ``use``; see `search.buds.validate.BudScore`.
    """

    parent: str
    subtask: int
    centre: tuple[float, ...] = ()
    classes: tuple[int, ...] = ()
    macs: float = 0.0
    parameters: float = 0.0
    scores: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Bud:
        """Read what a file holds.

        Raises:
            ExportError: If it is no bud's.
        """
        try:
            return cls(
                str(data["parent"]),
                int(data["subtask"]),
                tuple(map(float, data["centre"])),
                tuple(map(int, data["classes"])),
                float(data["macs"]),
                float(data["parameters"]),
                {str(name): float(value) for name, value in data["scores"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ExportError(f"{BUD} must describe a bud, but does not ({error!r}): register it again") from None


@dataclass(frozen=True, eq=False)
class Bundle:
    """A system read from a folder.

    Args:
        system: Ready to answer.
        identity: sha256 of stem, parent and router: buds of another parent do not fit it.
        buds: What is known of each bud, by sub-task.
        about: The rest of ``system.json``: sub-tasks, figures, where it comes from.
    """

    system: System
    identity: str
    buds: Mapping[int, Bud]
    about: Mapping[str, Any]


def write_bundle(
    folder: Path,
    system: System,
    subtasks: Mapping[str, Tensor],
    *,
    inputs: tuple[Tensor, ...],
    hidden: Tensor,
    buds: Mapping[int, Bud],
    about: Mapping[str, Any],
) -> str:
    """Write a system; returns the identity of its parent, which every bud's file then names.

    Raises:
        ExportError: If one of the networks cannot be stored without its class.
        StorageError: If the folder cannot be written.
    """
    with storing(folder):
        for name, network, example in (("stem", system.stem, inputs), ("parent", system.parent, (hidden,))):
            _write_network(folder / name, network, example)
        tensors = {f"router/{n}": t for n, t in system.router.state_dict().items()}
        tensors |= {f"subtasks/{n}": t for n, t in subtasks.items()}
        place = folder / "router"
        place.mkdir(parents=True, exist_ok=True)
        save_file({n: t.contiguous().clone() for n, t in tensors.items()}, place / ROUTER)
        data = {
            "schema": SCHEMA,
            "confidence": system.confidence,
            "blend": system.blend,
            "assurance": system.assurance,
            "inputs": [{"shape": list(x.shape[1:]), "dtype": str(x.dtype).removeprefix("torch.")} for x in inputs],
            **about,
        }
        (place / SYSTEM).write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        write_manifest(place, None)
        identity = identity_of(folder)
        for index, network in system.buds.items():
            place = folder / "buds" / str(index)
            _write_network(place, network, (hidden,))
            described = asdict(buds[index]) | {"parent": identity}
            (place / BUD).write_text(json.dumps(described, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            write_manifest(place, None)
    return identity


def read_bundle(folder: Path) -> Bundle:
    """Read a system with the buds that lie in its folder; every file is checked against its manifest first.

    Raises:
        ExportError: If the folder is no whole system, or a bud grew from another parent.
    """
    contents = verified(folder / "router", read_manifest(folder / "router"), (SYSTEM, ROUTER))
    about = parsed(contents[SYSTEM], SYSTEM, _LARGEST)
    if about.get("schema") != SCHEMA:
        raise ExportError(f"a system's schema must be {SCHEMA}, but is {about.get('schema')!r}: register it again")
    try:
        tensors = load(contents[ROUTER])
        router = Router(*reversed(tensors["router/weight"].shape))
        router.load_state_dict({n.removeprefix("router/"): t for n, t in tensors.items() if n.startswith("router/")})
        system = System(
            load_network(folder / "stem"),
            load_network(folder / "parent"),
            router.eval(),
            confidence=float(about["confidence"]),
            blend=int(about["blend"]),
            assurance=float(about["assurance"]),
        )
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, ExportError):
            raise
        raise ExportError(f"{ROUTER} and {SYSTEM} must be a system's, but are not ({error}): register it") from None
    identity = identity_of(folder)
    found = {int(place.name): read_bud(place) for place in sorted((folder / "buds").glob("[0-9]*"))}
    for index, (_, bud) in found.items():
        if bud.parent != identity:
            raise ExportError(
                f"a bud must have grown from the parent beside it, but bud {index} did not: copy it again"
            )
    with_buds = system.having({index: network for index, (network, _) in found.items()})
    return Bundle(with_buds, identity, {index: bud for index, (_, bud) in found.items()}, about)


def read_bud(folder: Path) -> tuple[nn.Module, Bud]:
    """A bud's network and what is known of it.

    Raises:
        ExportError: If the folder is no whole bud.
    """
    contents = verified(folder, read_manifest(folder), (BUD,))
    return load_network(folder), Bud.from_dict(parsed(contents[BUD], BUD, _LARGEST))


def identity_of(folder: Path) -> str:
    """sha256 of what the parent of a system is: its stem, its tail, its router."""
    digest = hashlib.sha256()
    for place, name in ((folder / "stem", WEIGHTS), (folder / "parent", WEIGHTS), (folder / "router", ROUTER)):
        files = read_manifest(place).files
        digest.update(json.dumps([name, files[name][1]]).encode())
    return digest.hexdigest()


def manifest_hash(folder: Path) -> str:
    """sha256 of a folder's manifest, which holds those of all its files but the versions' that wrote it."""
    files = read_manifest(folder).files
    return hashlib.sha256(json.dumps(sorted((n, d) for n, (_, d) in files.items())).encode()).hexdigest()


def subtasks_of(folder: Path) -> dict[str, Tensor]:
    """The tensors of `search.buds.find.Subtasks`."""
    contents = verified(folder / "router", read_manifest(folder / "router"), (ROUTER,))
    tensors = load(contents[ROUTER])
    return {n.removeprefix("subtasks/"): t for n, t in tensors.items() if n.startswith("subtasks/")}


def _write_network(folder: Path, network: nn.Module, example: tuple[Tensor, ...]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    described = save_network(folder, network, example, weights=WEIGHTS)
    if "rebuild" in described:
        raise ExportError(
            f"the parts of a system must be stored without their class, but {folder.name} cannot be "
            f"({described['rebuild']['reason']}): write the network with modules and functions of torch"
        )
    write_manifest(folder, None)
