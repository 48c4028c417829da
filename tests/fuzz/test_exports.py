"""Folders of others: whatever is done to their files, and signed again, they load or are refused by one line."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from search.artifact.baseline import read_baseline, write_baseline
from search.artifact.manifest import read_manifest, verified, write_manifest
from search.artifact.network import ARCHITECTURE, WEIGHTS, assembled, save_network
from search.buds.bundle import BUD, ROUTER, SYSTEM, read_bundle
from search.buds.trial import FOLDER, run_bud_trial
from search.commands.compare import compare_items
from search.export import load
from search.home import Home
from spaces.errors import ExportError
from tests.fuzz.bent import as_json, bent, changed, deep
from tests.fuzz.oracle import accepted
from tests.search.buds.nets import Parent, Quarters, request
from tests.search.exports import letters, signed


@functools.cache
def workplace() -> Path:
    """What is tried on: a folder per process, copied before it is changed."""
    folder = Path(tempfile.mkdtemp(prefix="pleach-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def networks() -> tuple[tuple[bytes, bytes], ...]:
    """Architecture and weights of a few networks."""
    found = []
    for name, network in (("parent", Parent().eval()), ("rows", nn.Sequential(nn.Flatten(), nn.Linear(32, 4)).eval())):
        folder = workplace() / name
        folder.mkdir(parents=True, exist_ok=True)
        save_network(folder, network, Quarters(8).example_inputs(), weights=WEIGHTS)
        found.append(((folder / ARCHITECTURE).read_bytes(), (folder / WEIGHTS).read_bytes()))
    return tuple(found)


@functools.cache
def export() -> Path:
    return letters(workplace())


@functools.cache
def bundle() -> Path:
    """A system of buds."""
    list(run_bud_trial(request(1.0, 1), Quarters(64), ("accuracy",), {}, checkpoints=workplace() / "bundle"))
    return workplace() / "bundle" / FOLDER


def changed_header(data: bytes, change: Any) -> bytes:
    """Safetensors whose header is another one."""
    length = int.from_bytes(data[:8], "little")
    header = as_json(change)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def header(data: bytes) -> Any:
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


@given(st.data())
def test_a_changed_architecture_loads_or_is_refused(data: st.DataObject) -> None:
    architecture, weights = data.draw(st.sampled_from(networks()))
    tree = data.draw(changed([json.loads(architecture)]))
    network = accepted(lambda: assembled(as_json(tree), weights), ExportError)
    assert network is None or not network.training


@given(st.data())
def test_bent_files_load_or_are_refused(data: st.DataObject) -> None:
    architecture, weights = data.draw(st.sampled_from(networks()))
    which = data.draw(st.sampled_from(["architecture", "weights", "header"]))
    if which == "architecture":
        architecture = data.draw(bent([architecture]))
    elif which == "weights":
        weights = data.draw(bent([weights]))
    else:
        weights = changed_header(weights, data.draw(changed([header(weights)])))
    accepted(lambda: assembled(architecture, weights), ExportError)


@given(changed([{"schema": 1, "versions": {}, "files": {"a.json": {"size": 2, "sha256": "0" * 64}}, "rebuild": None}]))
@example({"schema": 1, "versions": {}, "files": {"../a": {"size": 2, "sha256": "0" * 64}}, "rebuild": None})
@example({"schema": 1, "versions": {}, "files": {"a.json": {"size": 10**15, "sha256": "0" * 64}}, "rebuild": None})
@example(deep(20_000))
def test_a_changed_manifest_is_read_or_refused(tree: Any) -> None:
    with tempfile.TemporaryDirectory(dir=workplace()) as place:
        folder = Path(place)
        (folder / "manifest.json").write_bytes(as_json(tree) if not isinstance(tree, list) else b"[" * 20_000)
        (folder / "a.json").write_text("{}")
        manifest = accepted(lambda: read_manifest(folder), ExportError)
        if manifest is not None:
            accepted(lambda: verified(folder, manifest, ("a.json",)), ExportError)


@given(st.data())
def test_a_signed_export_with_changed_files_loads_compares_or_is_refused(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["architecture.json", "metrics.json", "profile.json", "model.safetensors"]))
    original = (export() / name).read_bytes()
    if name.endswith(".json"):
        contents = data.draw(changed([json.loads(original)]).map(as_json) | bent([original]))
    else:
        contents = data.draw(bent([original]))
    with tempfile.TemporaryDirectory(dir=workplace()) as place:
        folder = Path(shutil.copytree(export(), Path(place) / "copy"))
        (folder / name).write_bytes(contents)
        signed(folder)
        accepted(lambda: load(folder), ExportError)
        accepted(lambda: compare_items([str(folder), str(export())], Home(Path(place)), every=True))


@given(st.data())
def test_a_changed_baseline_is_read_or_refused(data: st.DataObject) -> None:
    original = json.loads(write_baseline(Parent().eval(), Quarters(8).example_inputs()))
    accepted(lambda: read_baseline(as_json(data.draw(changed([original])))), ExportError)


@given(st.data())
def test_a_changed_system_of_buds_loads_or_is_refused(data: st.DataObject) -> None:
    name = data.draw(
        st.sampled_from([f"router/{SYSTEM}", f"router/{ROUTER}", f"buds/0/{BUD}", "stem/architecture.json"])
    )
    original = (bundle() / name).read_bytes()
    if name.endswith(".json"):
        contents = data.draw(changed([json.loads(original)]).map(as_json) | bent([original]))
    else:
        contents = data.draw(bent([original]) | changed([header(original)]).map(lambda t: changed_header(original, t)))
    with tempfile.TemporaryDirectory(dir=workplace()) as place:
        folder = Path(shutil.copytree(bundle(), Path(place) / "copy"))
        (folder / name).write_bytes(contents)
        inner = (folder / name).parent
        if (inner / "manifest.json").exists():
            (inner / "manifest.json").unlink()
        write_manifest(inner, None)
        accepted(lambda: read_bundle(folder), ExportError)
