"""The list of what a graph may call: complete, unambiguous, and the code of a graph means the very same functions."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn

from search.artifact.targets import ATTRIBUTES, FUNCTIONS, METHODS, function_name, function_named
from spaces.errors import ExportError

#: Operators are written as such: torch.fx has a template for each, with one or two operands.
UNARY = {"abs", "index", "inv", "invert", "neg", "not_", "pos", "truth"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_has_one_name_and_a_name_one_function(name: str) -> None:
    assert function_named(function_name(FUNCTIONS[name])) is FUNCTIONS[name]


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if not name.startswith(("operator.", "getattr"))])
def test_the_code_of_a_graph_calls_the_function_that_the_file_names(name: str) -> None:
    graph = fx.Graph()
    graph.output(graph.call_function(FUNCTIONS[name], (graph.placeholder("x"),)))
    module = fx.GraphModule(nn.Module(), graph)
    line = next(line for line in module.code.splitlines() if "(x)" in line and "def" not in line)
    called = line.split("=")[1].split("(")[0].strip()
    found: object = type(module).forward.__globals__[called.split(".")[0]]
    for atom in called.split(".")[1:]:
        found = getattr(found, atom)
    assert found is FUNCTIONS[name]


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name.startswith("operator.")])
def test_an_operator_has_code(name: str) -> None:
    operator = name.removeprefix("operator.")
    count = 3 if operator == "setitem" else 1 if operator in UNARY else 2
    graph = fx.Graph()
    graph.output(graph.call_function(FUNCTIONS[name], (graph.placeholder("x"),) * count))
    assert "return" in fx.GraphModule(nn.Module(), graph).code


def test_every_method_and_attribute_is_one_of_tensors() -> None:
    assert all(callable(getattr(torch.Tensor, name)) for name in METHODS)
    assert all(hasattr(torch.Tensor, name) for name in ATTRIBUTES)
    assert not any(name.startswith("_") for name in METHODS | ATTRIBUTES)


@pytest.mark.parametrize(
    "name",
    [
        *("torch.load", "torch.save", "torch.hub.load", "torch.compile", "torch.from_file", "torch.set_num_threads"),
        *("torch.jit.load", "torch.manual_seed", "torch.empty", "operator.attrgetter", "operator.methodcaller"),
        *("builtins.eval", "eval", "exec", "__import__", "os.system", "torch.nn.functional.torch", "", "torch."),
    ],
)
def test_what_reaches_beyond_tensors_is_not_on_the_list(name: str) -> None:
    with pytest.raises(ExportError):
        function_named(name)


@pytest.mark.parametrize("name", ["apply_", "map_", "numpy", "register_hook", "data_ptr", "set_", "resize_", "storage"])
def test_methods_that_reach_beyond_tensors_are_not_on_the_list(name: str) -> None:
    assert name not in METHODS
