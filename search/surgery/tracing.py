"""One symbolic trace of a network in one mode: torch.fx, taught what plain networks need.

Beyond torch.fx: questions about shapes (``if x.dim() == 3``, ``range(x.shape[1])``, ``assert``) are answered from the
example inputs; optional arguments that the example inputs leave out keep their defaults; buffers are read when the
network runs, not when it is traced; tensors made from traced sizes (``torch.arange(x.shape[1])``) follow the size.
What depends on the data itself is refused.
"""

from __future__ import annotations

import inspect
import linecache
import operator
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import Attribute, TraceError

from objectives.mode import evaluating
from search.surgery.shapes import Shapes, without_data

#: Makers of tensors: given a traced size they become nodes, as torch.fx has it for `math`.
_MAKERS = (
    torch.arange,
    torch.empty,
    torch.eye,
    torch.full,
    torch.linspace,
    torch.ones,
    torch.rand,
    torch.randint,
    torch.randn,
    torch.randperm,
    torch.tril_indices,
    torch.triu_indices,
    torch.zeros,
)
_TORCH = str(Path(torch.__file__).parent)
_HERE = __file__
#: Where a node keeps the line that made it.
_LINE = "pleach.line"
_DATA_DEPENDENT = "its control flow depends on the values of the data"


class UntraceableError(Exception):
    """Why a trace failed and where; the caller turns it into the error that users see.

    Args:
        reason: What the network does that a graph cannot express.
        module: Qualified name of the submodule in which it happens, "" for the network itself.
        line: ``file.py:12 `the source` ``, "" where it is not known.
    """

    def __init__(self, reason: str, module: str = "", line: str = "") -> None:
        super().__init__(reason)
        self.reason, self.module, self.line = reason, module, line


class _Value(fx.Proxy):
    """A traced value that answers questions about its shape."""

    tracer: NetworkTracer

    def __getattr__(self, name: str) -> _AttributeOfValue:
        return _AttributeOfValue(self, name)

    def __len__(self) -> int:
        value = self.tracer.known(self.node)
        return int(value.shape[0]) if isinstance(value, Tensor) else len(value)

    def __index__(self) -> int:
        return int(self.tracer.number(self.node).__index__())

    def __int__(self) -> int:
        return int(self.tracer.number(self.node))

    def __float__(self) -> float:
        return float(self.tracer.number(self.node))

    def __setitem__(self, key: object, value: object) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})


class _AttributeOfValue(Attribute, _Value):
    """The same for ``value.shape`` and its kind."""


class NetworkTracer(fx.Tracer):
    """Traces a network in the mode it is in.

    Args:
        inputs: Example inputs: as many arguments of ``forward`` become inputs of the graph.
        leaves: Classes of modules that stay modules, beside those of ``torch.nn``.
    """

    proxy_buffer_attributes = True

    def __init__(self, inputs: tuple[Tensor, ...], leaves: tuple[type[nn.Module], ...] = ()) -> None:
        super().__init__(autowrap_functions=_MAKERS)
        self._autowrap_search.append(torch)
        self._inputs = inputs
        self._leaves = leaves
        self._shapes: Shapes | None = None
        self._outputs: dict[str, list[Any]] = {}
        self._evaluates = False
        self._failed_in: str | None = None
        self.random_in: str | None = None

    @property
    def asked_for_shapes(self) -> bool:
        """Whether the network asked for what its example inputs' shapes alone say."""
        return self._shapes is not None

    def graph_of(self, network: nn.Module) -> tuple[fx.Graph, dict[str, Tensor]]:
        """The graph of a network, and the constant tensors that it made while it was traced, by name.

        Raises:
            UntraceableError: If the network does what a graph cannot express.
        """
        attributes = set(network.__dict__)
        try:
            with self._answering_limits():
                graph = self.trace(network)
        # Anything may be raised here: somebody else's code runs on stand-ins for tensors.
        except Exception as error:
            raise UntraceableError(_reason(error), self._failed_in or "", _user_line(error)) from error
        finally:
            # torch.fx leaves the tensors that it met as attributes of the network.
            made = {name: network.__dict__.pop(name) for name in set(network.__dict__) - attributes}
        if any(isinstance(value, Tensor) and value.requires_grad for value in made.values()):
            raise UntraceableError("it computes with a weight in a way that tracing does not see")
        self._drop_answered_questions(graph)
        for node in graph.nodes:
            node.type = None
            # Else the code of the graph would call torch.fx.wrap, which changes every later trace of the process.
            if node.target in _MAKERS or getattr(node.target, "__module__", "") == "math":
                node.meta.pop("is_wrapped", None)
        # A copy of the graph needs no tracer, and this one belongs to one network.
        graph._tracer_cls = None
        return graph, {name: made[name] for name in sorted(made)}

    # -- what torch.fx asks ------------------------------------------------------------------------------------------

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_leaf(m, self._leaves)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        # torch's own record of the stack imports a compiler first, which takes seconds.
        frame: FrameType | None = sys._getframe()
        while frame is not None and frame.f_code.co_filename.startswith((_TORCH, _HERE)):
            frame = frame.f_back
        if frame is not None:
            node.meta[_LINE] = (frame.f_code.co_filename, frame.f_lineno)
        return node

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Value(node, self)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: object = None
    ) -> tuple[Any, list[Any]]:
        names = _input_names(root_fn, len(self._inputs))
        return root_fn, [self.root, *(self.create_proxy("placeholder", name, (), {}) for name in names)]

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self._evaluates:
            # The network itself runs: what its modules return says what is asked about them later.
            output = forward(*args, **kwargs)
            self._outputs.setdefault((self.submodule_paths or {}).get(m, ""), []).append(without_data(output))
            return output
        if m not in (self.submodule_paths or {}) and not any(True for _ in (*m.parameters(), *m.buffers())):
            # Made on the spot, as in ``nn.ReLU()(x)``: it has nothing to keep, so what it does is traced.
            return forward(*args, **kwargs)
        random = torch.get_rng_state()
        try:
            output = super().call_module(m, forward, args, kwargs)
        except Exception:
            if self._failed_in is None:
                self._failed_in = (self.submodule_paths or {}).get(m, type(m).__name__)
            raise
        if self.random_in is None and not torch.equal(random, torch.get_rng_state()):
            self.random_in = self.path_of_module(m)
        return output

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        if self._evaluates:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def to_bool(self, obj: fx.Proxy) -> bool:
        return bool(self.number(obj.node))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        value: Any = obj
        return iter([value[i] for i in range(len(value))])

    # -- answers about shapes ----------------------------------------------------------------------------------------

    def number(self, node: fx.Node) -> Any:
        """A number (or what else has a truth value) that follows from shapes alone.

        Raises:
            TraceError: If it follows from the data.
        """
        value = self.known(node)
        if isinstance(value, Tensor):
            raise TraceError(_DATA_DEPENDENT)
        return value

    def known(self, node: fx.Node) -> Any:
        """The value of a node on the example inputs; a tensor is only its shape.

        Raises:
            TraceError: If it cannot be known without the data.
        """
        self._evaluates = True
        try:
            if self._shapes is None:
                with evaluating(self.root), torch.random.fork_rng(devices=[]):
                    self.root(*(x.clone() for x in self._inputs))
                self._shapes = Shapes(self.root, self._inputs, self._outputs)
            return self._shapes[node]
        # A shape may be unknowable for any reason that an operator gives; to the trace it is all the same.
        except Exception as error:
            raise TraceError(f"{_DATA_DEPENDENT} ({_first_line(error)})") from error
        finally:
            self._evaluates = False

    @contextmanager
    def _answering_limits(self) -> Iterator[None]:
        """Answer ``torch.finfo(x.dtype)``: it is a class of C, and says no to a stand-in for a type."""
        originals = {name: getattr(torch, name) for name in ("finfo", "iinfo")}

        def answer(limits: Callable[..., Any]) -> Callable[..., Any]:
            def answered(*kind: Any) -> Any:
                return limits(*(self.number(each.node) if isinstance(each, fx.Proxy) else each for each in kind))

            return answered

        try:
            for name, limits in originals.items():
                setattr(torch, name, answer(limits))
            yield
        finally:
            for name, limits in originals.items():
                setattr(torch, name, limits)

    def _drop_answered_questions(self, graph: fx.Graph) -> None:
        """Take out what only served to answer: it would be computed again in every forward pass."""
        for node in reversed(graph.nodes):
            if node.users:
                continue
            answer = node.op in ("call_function", "call_method") and self._shapes is not None and node in self._shapes
            if node.op == "get_attr" or (answer and not isinstance(self.known(node), Tensor | None)):
                graph.erase_node(node)


def is_leaf(module: nn.Module, leaves: tuple[type[nn.Module], ...] = ()) -> bool:
    """Whether a module stays one node: `leaves`, and what computes with the ``forward`` of a class of ``torch.nn``."""
    if isinstance(module, leaves):
        return True
    owner = next(kind for kind in type(module).__mro__ if "forward" in vars(kind))
    return owner.__module__.startswith("torch.nn.") and owner not in (nn.Module, nn.Sequential)


def changes_nothing_in_evaluation(module: nn.Module) -> bool:
    """Whether a module without state hands its only input on unchanged once it is in evaluation mode (drop path)."""
    if any(True for _ in module.parameters()) or any(True for _ in module.buffers()):
        return False
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        graph, _ = NetworkTracer((torch.zeros(2, 2, 2, 2),)).graph_of(module)
    except UntraceableError:
        return False
    finally:
        for each, training in modes:
            each.training = training
    nodes = list(graph.nodes)
    return len(nodes) == 2 and nodes[-1].args == (nodes[0],)


def user_line(node: fx.Node) -> str:
    """``file.py:12 `the source` `` of the line outside of torch that made a node; "" where it is not known."""
    place = node.meta.get(_LINE)
    return f"{Path(place[0]).name}:{place[1]} `{linecache.getline(*place).strip()}`" if place else ""


def module_of(node: fx.Node) -> str:
    """Qualified name of the innermost submodule in which a node was made; "" for the network itself."""
    stack: Mapping[str, tuple[str, Any]] = node.meta.get("nn_module_stack", {})
    return list(stack.values())[-1][0] if stack else ""


def _user_line(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        if not frame.filename.startswith(_TORCH) and frame.filename != _HERE:
            return f"{Path(frame.filename).name}:{frame.lineno} `{frame.line or ''}`"
    return ""


def _input_names(forward: Callable[..., Any], count: int) -> list[str]:
    names: list[str] = []
    for parameter in list(inspect.signature(forward).parameters.values())[1:]:
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}_{i}" for i in range(count - len(names))]
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    if len(names) < count:
        raise TypeError(f"its forward takes {len(names)} inputs, but there are {count} example inputs")
    return names[:count]


def _reason(error: BaseException) -> str:
    if isinstance(error, UntraceableError):
        return error.reason
    return _first_line(error) if isinstance(error, TraceError) else f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).strip()
