"""Data files of tasks: tables, texts, arrays, models. Each is read, or what is wrong with it is said in one line."""

from __future__ import annotations

import functools
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from objectives.tasks.chars import Chars
from objectives.tasks.onnx import Onnx
from objectives.tasks.tabular import Tabular
from spaces.errors import TaskError
from tests.fuzz.bent import bent
from tests.fuzz.oracle import accepted

ROWS = "\n".join(f"{i * 0.5},{i % 3},{'xyz'[i % 3]},{'ab'[i % 2]}" for i in range(40))
CSV = f"size,count,colour,kind\n{ROWS}\n".encode()


@functools.cache
def parquet() -> bytes:
    found = io.BytesIO()
    pd.read_csv(io.BytesIO(CSV)).to_parquet(found)
    return found.getvalue()


@functools.cache
def model() -> bytes:
    """A convolution, a rectifier and a linear layer."""
    generator = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(generator.normal(size=(3, 2, 3, 3)).astype(np.float32), "w"),
        numpy_helper.from_array(generator.normal(size=(48, 4)).astype(np.float32), "v"),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Flatten", ["b"], ["c"]),
        helper.make_node("MatMul", ["c", "v"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 4, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])
    graph = helper.make_graph(nodes, "net", [x], [y], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


@functools.cache
def arrays() -> bytes:
    found, generator = io.BytesIO(), np.random.default_rng(0)
    np.savez(found, x=generator.normal(size=(40, 2, 4, 4)).astype(np.float32), y=np.arange(40) % 4)
    return found.getvalue()


def used(task: Any) -> Any:
    """What a study does with a task first."""
    batch, targets = next(iter(task.batches("validation", shuffle_seed=None)))
    return batch, targets, task.example_inputs(), task.labels("train") if hasattr(task, "labels") else ()


@given(
    bent([CSV]), st.sampled_from(["classification", "regression"]), st.sampled_from(["kind", "size", "colour", "no"])
)
@example(b"", "classification", "kind")
@example(b"kind\n" + b"a\n" * 20 + b"b\n" * 20, "classification", "kind")
@example(b"kind,kind\n" + b"a,b\n" * 40, "classification", "kind")
@example(b"size,kind\n" + b"1e999,a\n" * 20 + b"nan,b\n" * 20, "classification", "kind")
@example(b"size,kind\n" + b"1e308,a\n" * 20 + b"-1e308,b\n" * 20, "classification", "kind")
@example(b"size,kind\n" + b"1,inf\n" * 20 + b"2,-inf\n" * 20, "regression", "kind")
@example(b"size,kind\n" + b"1,1e300\n" * 20 + b"2,2\n" * 20, "regression", "kind")
@example(b"\x00size,kind\n" + b"1\x00,a\n" * 40, "classification", "kind")
def test_a_bent_table_is_read_or_named(data: bytes, kind: str, target: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "table.csv"
        path.write_bytes(data)
        found = accepted(lambda: used(Tabular(str(path), target=target, kind=kind)), TaskError)
        assert found is None or bool(torch.isfinite(found[0]).all()), "features that are no numbers"


@given(st.data())
def test_a_bent_parquet_file_is_read_or_named(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "table.parquet"
        path.write_bytes(data.draw(bent([parquet()])))
        accepted(lambda: used(Tabular(str(path), target="kind", kind="classification")), TaskError)


@given(bent([("The quick brown fox jumps over the lazy dog. " * 60).encode()]))
@example(b"\x00" * 5000)
@example("\ufeff\u202e\U0010ffff".encode() * 900)
@example("".join(map(chr, range(32, 3000))).encode() * 3)
@example(b"a")
@example(b"\xff" * 9000)
def test_a_bent_text_is_read_or_named(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "text.txt"
        path.write_bytes(data)
        accepted(lambda: used(Chars(text=str(path), context=8)), TaskError)


@given(st.data())
def test_a_bent_model_is_read_or_named(data: st.DataObject) -> None:
    changed = data.draw(st.booleans())
    with tempfile.TemporaryDirectory() as place:
        file, arrays_file = Path(place) / "net.onnx", Path(place) / "data.npz"
        file.write_bytes(data.draw(bent([model()])) if not changed else data.draw(odd_models()))
        arrays_file.write_bytes(arrays())
        accepted(lambda: used(Onnx(str(file), str(arrays_file))), TaskError)


@st.composite
def odd_models(draw: st.DrawFn) -> bytes:
    """Models that parse, with nodes, attributes, shapes or weights that make no sense."""
    made = onnx.ModelProto.FromString(model())
    graph = made.graph
    how = draw(st.sampled_from(["attribute", "operator", "edge", "weight", "shape", "external", "opset", "nodes"]))
    node = graph.node[draw(st.integers(0, len(graph.node) - 1))]
    if how == "attribute":
        node.attribute.append(
            helper.make_attribute(draw(st.sampled_from(["axis", "group", "pads", "strides", "to"])), -7)
        )
    elif how == "operator":
        node.op_type = draw(
            st.sampled_from(["Gemm", "Loop", "If", "Softmax", "Gather", "Pad", "Reshape", "Resize", "Nope"])
        )
    elif how == "edge":
        node.input[0] = draw(st.sampled_from(["", "y", "w", "nowhere", node.output[0]]))
    elif how == "weight":
        graph.initializer[0].dims[:] = draw(st.lists(st.integers(-2, 2**40), max_size=5))
    elif how == "shape":
        graph.input[0].type.tensor_type.shape.dim[1].dim_value = draw(st.integers(-(2**40), 2**40))
    elif how == "external":
        graph.initializer[0].data_location = TensorProto.EXTERNAL
        graph.initializer[0].external_data.append(onnx.StringStringEntryProto(key="location", value="/etc/passwd"))
    elif how == "opset":
        made.opset_import[0].version = draw(st.integers(-1, 10**6))
    else:
        for _ in range(200):
            graph.node.append(node)
    return bytes(made.SerializeToString())


@given(bent([arrays()]))
def test_bent_arrays_are_read_or_named(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        file, arrays_file = Path(place) / "net.onnx", Path(place) / "data.npz"
        file.write_bytes(model())
        arrays_file.write_bytes(data)
        accepted(lambda: used(Onnx(str(file), str(arrays_file))), TaskError)
