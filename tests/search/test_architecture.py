"""A network as data: what is written is read again bitwise, and nothing that a hostile file says is run."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from search.architecture import read_architecture, write_architecture
from search.artifact.tensors import fill, tensors, ties
from search.surgery.graph import trace
from spaces.errors import ExportError
from tests.search.random_networks import STACKS, Stack
from tests.search.zoo import ZOO, ResNet, bred

Data = dict[str, Any]


def written(network: nn.Module, inputs: tuple[Tensor, ...]) -> Data:
    """The architecture of a network, through JSON."""
    data: Data = json.loads(json.dumps(write_architecture(trace(network, inputs))))
    return data


def outputs(network: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        result: Tensor = network.eval()(*inputs)
    return result


@pytest.mark.parametrize("name", ZOO)
def test_every_network_of_the_zoo_comes_back_bitwise(name: str) -> None:
    network, inputs = bred(name)
    traced = trace(network, inputs)
    again = read_architecture(json.loads(json.dumps(write_architecture(traced))))
    assert set(again.state_dict()) == set(network.state_dict())
    fill(again, {key: value for key, value in tensors(traced).items() if key not in ties(traced)})
    assert torch.equal(outputs(again, inputs), outputs(network, inputs))


@settings(max_examples=60)
@given(STACKS, st.integers(0, 100))
def test_random_networks_come_back_bitwise(network: Stack, seed: int) -> None:
    inputs = (torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(seed)),)
    again = read_architecture(written(network.eval(), inputs))
    again.load_state_dict(network.state_dict())
    assert torch.equal(outputs(again, inputs), outputs(network, inputs))


def test_a_resnet_20_comes_back_bitwise_for_any_batch() -> None:
    torch.manual_seed(0)
    network = ResNet((16, 32, 64), 3, projection=False).eval()
    again = read_architecture(written(network, (torch.randn(2, 3, 32, 32),)))
    again.load_state_dict(network.state_dict())
    inputs = (torch.randn(5, 3, 32, 32),)
    assert torch.equal(outputs(again, inputs), outputs(network, inputs))


def test_what_was_read_can_be_written_again() -> None:
    data = written(*bred("vit_fused"))
    again = read_architecture(data)
    assert isinstance(again, fx.GraphModule)
    assert write_architecture(again) == data


def test_a_sequential_that_a_graph_calls_as_a_whole_is_stored_as_its_parts() -> None:
    network, inputs = bred("plain")
    traced = trace(network, inputs)
    traced.add_submodule("aside.first", nn.Sequential(nn.Linear(5, 4), nn.Sequential(nn.Tanh(), nn.Linear(4, 5))))
    (last,) = (node for node in traced.graph.nodes if node.target == "4")
    with traced.graph.inserting_after(last):
        added = traced.graph.call_module("aside.first", (last,))
    last.replace_all_uses_with(added, lambda user: user is not added)
    traced.recompile()
    again = read_architecture(json.loads(json.dumps(write_architecture(traced))))
    again.load_state_dict(traced.state_dict())
    assert torch.equal(outputs(again, inputs), outputs(traced, inputs))
    assert not torch.equal(outputs(again, inputs), outputs(network, inputs))


def test_tied_weights_are_one_tensor_again() -> None:
    network, inputs = bred("tied_weights")
    data = written(network, inputs)
    assert data["ties"] == {"head.weight": "embedding.weight"}
    again = read_architecture(data)
    assert again.get_parameter("head.weight") is again.get_parameter("embedding.weight")


def test_parameters_that_are_not_trained_stay_so() -> None:
    network, inputs = bred("plain")
    network.get_parameter("4.weight").requires_grad_(False)
    assert not read_architecture(written(network, inputs)).get_parameter("4.weight").requires_grad


def test_drop_path_is_stored_as_the_identity_that_it_is() -> None:
    data = written(*bred("convnext"))
    assert data["modules"]["1.drop"] == {"class": "torch.nn.Identity", "args": {}}


class Unknown(nn.Module):
    """A leaf that no file may name."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2


@fx.wrap
def own_function(x: Tensor) -> Tensor:
    return x + 1


class Calls(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = own_function(x)
        return result


def test_a_module_that_a_file_must_not_name_is_not_written() -> None:
    traced = trace(nn.Sequential(Unknown()), (torch.ones(2, 2),), leaves=(Unknown,))
    with pytest.raises(ExportError, match=r"torch\.nn only, but holds a tests\.search\.test_architecture\.Unknown"):
        write_architecture(traced)


def test_a_function_that_a_file_must_not_name_is_not_written() -> None:
    with pytest.raises(ExportError, match=r"functions of torch only, but calls .*own_function"):
        write_architecture(trace(Calls(), (torch.ones(2, 2),)))


def test_a_hook_is_not_lost_silently() -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    network[0].register_forward_hook(lambda module, args, output: output * 2)
    with pytest.raises(ExportError, match="hook"):
        write_architecture(trace(network, (torch.ones(2, 2),)))


# -- hostile files ---------------------------------------------------------------------------------------------------

BASE = written(*bred("mlp"))
PWNED: list[str] = []


def node(**changes: Any) -> Callable[[Data], None]:
    """Change the first call of a module."""

    def apply(data: Data) -> None:
        data["nodes"][1].update(changes)

    return apply


def at(*path: Any, value: Any) -> Callable[[Data], None]:
    """Put a value somewhere."""

    def apply(data: Data) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return apply


def call(target: str, *args: Any, op: str = "call_function") -> Callable[[Data], None]:
    """Make the first call one of something else."""
    return node(op=op, target=target, args={"tuple": [{"node": "input_1"}, *args]})


def renamed(name: str) -> Callable[[Data], None]:
    """Give the first call another name, wherever it is used."""

    def apply(data: Data) -> None:
        data["nodes"] = json.loads(json.dumps(data["nodes"]).replace('"_0"', json.dumps(name)))

    return apply


def moved(name: str) -> Callable[[Data], None]:
    """Give the first module another name, wherever it is used."""

    def apply(data: Data) -> None:
        data["modules"][name] = data["modules"].pop("0")
        for part in ("weight", "bias"):
            data["tensors"][f"{name}.{part}"] = data["tensors"].pop(f"0.{part}")
        data["nodes"][1]["target"] = name

    return apply


TANH = {"class": "torch.nn.Tanh", "args": {}}
BYTE = {"shape": [1], "dtype": "int8", "kind": "buffer"}
CODE = "__import__('tests.search.test_architecture').search.test_architecture.PWNED.append('x')"
NESTED: Any = 1
for _ in range(60):
    NESTED = [NESTED]

HOSTILE: dict[str, tuple[Callable[[Data], None], str]] = {
    "a function of the system": (call("os.system", "true"), "names 'os.system'"),
    "a builtin": (call("eval", CODE), "names 'eval'"),
    "an import": (call("builtins.__import__", "os"), "__import__"),
    "torch.load": (call("torch.load", "file"), "names 'torch.load'"),
    "torch.hub": (call("torch.hub.load", "repository"), "torch.hub.load"),
    "a method that calls back": (call("apply_", op="call_method"), "'apply_' is none"),
    "a method that opens the object": (call("__reduce__", op="call_method"), "'__reduce__' is none"),
    "a method of a text": (node(op="call_method", target="relu", args={"tuple": ["text"]}), "'call_method'"),
    "an attribute that opens the object": (call("getattr", "__class__"), "('__class__',)"),
    "an attribute as a node": (call("getattr", {"node": "input_1"}), "reads (input_1,)"),
    "code in a node's name": (renamed(f"x = {CODE}\n    y"), "identifier"),
    "code in a name after a newline": (renamed(f"x\n    {CODE}"), "identifier"),
    "a name that is a keyword": (renamed("import"), "identifier"),
    "a name that is a builtin": (renamed("print"), "print is taken"),
    "a name that is the network": (renamed("self"), "identifier"),
    "a name that is torch": (renamed("torch"), "identifier"),
    "a name twice": (renamed("input_1"), "input_1 is taken"),
    "a name of other letters": (renamed("\u0430"), "identifier"),
    "code in an input's name": (at("nodes", 0, "target", value=f"x={CODE}"), "identifier"),
    "an input called self": (at("nodes", 0, "target", value="self"), "identifier"),
    "an input of many": (at("nodes", 0, "target", value="*input"), "identifier"),
    "an input's default that computes": (at("nodes", 0, "args", value={"tuple": [[1]]}), "'placeholder'"),
    "code in a keyword": (node(kwargs={"dict": [[f"a={CODE}, b", 1]]}), "identifier"),
    "a keyword that is one of Python's": (node(kwargs={"dict": [["lambda", 1]]}), "identifier"),
    "code in a module's name": (moved(f'0"), {CODE}, ("'), "letters, digits"),
    "a module's name that is a keyword": (moved("class"), "letters, digits"),
    "code in a call's target": (node(target=f'0"){CODE}#'), "'call_module'"),
    "a call of what is no module": (node(target="forward"), "'call_module' of 'forward'"),
    "a target that is a list": (node(target=["0"]), "target must be a name"),
    "an operation of torch.fx's own": (node(op="root"), "'root'"),
    "a reference forward": (at("nodes", 1, "args", value={"tuple": [{"node": "_2"}]}), "'_2' is none"),
    "a reference to itself": (at("nodes", 1, "args", value={"tuple": [{"node": "_0"}]}), "'_0' is none"),
    "an argument nested without end": (at("nodes", 1, "args", value={"tuple": [NESTED]}), "nested 24 deep"),
    "an argument of an unknown kind": (at("nodes", 1, "args", value={"tuple": [{"pickle": "gASV"}]}), "'pickle'"),
    "an argument that is a giant number": (at("nodes", 1, "args", value={"tuple": [10**30]}), "of a kind"),
    "a device of nobody": (at("nodes", 1, "args", value={"tuple": [{"device": f"cpu'){CODE}"}]}), "'device'"),
    "no output": (lambda data: data["nodes"].pop(), "end with its one output"),
    "an output too many": (lambda data: data["nodes"].append(data["nodes"][-1]), "end with its one output"),
    "no nodes": (at("nodes", value=[]), "list of at most"),
    "nodes that are no list": (at("nodes", value={"0": 1}), "list of at most"),
    "a class that is a container": (at("modules", "0", "class", value="torch.nn.Module"), "'torch.nn.Module'"),
    "a class by path": (at("modules", "0", "class", value="subprocess.Popen"), "'subprocess.Popen'"),
    "a class that is a list": (at("modules", "0", "class", value=["torch.nn.Linear"]), "['torch.nn.Linear']"),
    "an argument that no constructor has": (at("modules", "0", "args", "device", value="cuda"), "must have the arg"),
    "an argument that a constructor refuses": (at("modules", "0", "args", "in_features", value="x"), "cannot be built"),
    "a negative size": (at("modules", "0", "args", "in_features", value=-5), "cannot be built"),
    "a module inside a leaf": (at("modules", "0.inner", value=TANH), "inside another"),
    "a module that is also a container": (at("modules", "0.0.0", value=TANH), "no such part"),
    "a module called forward": (at("modules", "forward", value=TANH), "'forward'"),
    "a module called graph": (at("modules", "graph", value=TANH), "'graph'"),
    "a module of Python's own": (at("modules", "a.__class__", value=TANH), "keeps for itself"),
    "a module with an empty name": (at("modules", "", value=TANH), "letters, digits"),
    "a layer of giant size": (at("modules", "0", "args", "out_features", value=2**50), "must have the shape"),
    "a giant tensor": (at("tensors", "0.weight", "shape", value=[2**40, 2**40]), "has more"),
    "a tensor of another size": (at("tensors", "0.weight", "shape", value=[16, 8]), "must have the shape (16, 7)"),
    "a tensor of negative size": (at("tensors", "0.weight", "shape", value=[-1, 7]), "0.weight is not"),
    "a size that is no number": (at("tensors", "0.weight", "shape", value=[16.0, 7]), "0.weight is not"),
    "a type of nobody": (at("tensors", "0.weight", "dtype", value="object"), "'object'"),
    "a kind of nobody": (at("tensors", "0.weight", "kind", value="code"), "0.weight is not"),
    "a tensor inside a leaf that has none": (at("tensors", "0.other", value=BYTE), "one of its module's"),
    "a tensor of Python's own": (at("tensors", "extra.__dict__", value=BYTE), "keeps for itself"),
    "a tensor that is not described": (lambda data: data["tensors"].pop("0.bias"), "0.bias is not"),
    "a tie of different tensors": (at("ties", "0.bias", value="0.weight"), "tied tensors"),
    "a tie to nothing": (at("ties", "0.bias", value=["0.weight"]), "tied tensors"),
    "a tie to itself": (at("ties", "0.bias", value="0.bias"), "tied tensors"),
    "another schema": (at("schema", value=2), "schema must be 1"),
    "a key too many": (at("code", value=CODE), "must hold"),
}


def test_torch_itself_runs_what_a_name_says() -> None:
    """Why every name is checked: without that, this attack works."""
    graph = fx.Graph()
    graph.output(graph.create_node("placeholder", f"x={CODE}", name="x"))
    fx.GraphModule(nn.Module(), graph)
    assert PWNED == ["x"]
    PWNED.clear()


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line_and_nothing_of_it_runs(attack: str) -> None:
    change, said = HOSTILE[attack]
    data = copy.deepcopy(BASE)
    change(data)
    with pytest.raises(ExportError) as caught:
        read_architecture(data)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert not PWNED


@pytest.mark.parametrize("data", [None, [], "text", 3, {}, {"schema": 1}])
def test_what_is_no_architecture_is_refused(data: object) -> None:
    with pytest.raises(ExportError, match="architecture"):
        read_architecture(data)


def test_a_network_larger_than_the_limit_is_refused_before_it_takes_memory() -> None:
    # 2**20 x 2**20 weights are 4 TiB.
    data = written(nn.Sequential(nn.Linear(3, 2, bias=False)), (torch.ones(2, 3),))
    data["modules"]["0"]["args"].update(in_features=2**20, out_features=2**20)
    data["tensors"]["0.weight"]["shape"] = [2**20, 2**20]
    with pytest.raises(ExportError, match="raise the limit"):
        read_architecture(data)


CODES = (CODE, f"x={CODE}", f"x\n    {CODE}", f'0"), {CODE}, ("', f"a={CODE}, b", "torch.load", "__class__")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(CODES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200)
@given(st.data(), JSON)
def test_any_value_anywhere_is_read_or_refused_but_never_run(drawn: st.DataObject, value: Any) -> None:
    data = copy.deepcopy(BASE)
    place: Any = data
    while True:
        key = drawn.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or drawn.draw(st.booleans()):
            break
        place = place[key]
    if isinstance(place, dict) and isinstance(value, str) and drawn.draw(st.booleans()):
        place[value] = place.pop(key)
    else:
        place[key] = value
    try:
        network = read_architecture(data)
    except ExportError:
        network = None
    if network is not None:
        # A file that keeps the rules may still compute nonsense, which torch then says.
        with contextlib.suppress(RuntimeError, TypeError, ValueError, IndexError):
            network(torch.ones(2, 7))
    assert not PWNED
