"""Recording a network's operations with torch.fx, each with the tensor it would give.

Nothing is computed: parameters, buffers and inputs are fake tensors. Because every value's shape
is known while tracing, code that looks at shapes (``if x.shape[2] % 2:``) runs as it would with
real images; code that looks at values cannot be traced.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.proxy import Proxy
from torch.utils._pytree import tree_map

from search_space.fakes import (
    UntraceableError,
    default_device,
    device_of,
    first_line,
    leaves,
    quiet,
)
from search_space.real_constants import RealConstants
from search_space.reparam import ReparamBlock
from search_space.shaped_proxy import (
    ShapedProxy,
    ValueNeededError,
    passing_for_tensors,
    stands_for_tensor,
)


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module while recording: nodes in the place of tensors."""

    module: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any


@dataclass(frozen=True)
class Recording:
    """The operations of one forward pass.

    Attributes:
        graph: its nodes hold ``meta["value"]`` (fake tensors in the place of tensors) and
            ``meta["owner"]`` (name of the module whose code made the node).
        calls: the calls of all modules, in the order in which they returned.
    """

    graph: fx.Graph
    calls: list[ModuleCall]


def record(model: nn.Module, args: Sequence[Any], mode: FakeTensorMode) -> Recording:
    """Record the operations of one forward pass.

    Args:
        model: with fake parameters.
        args: positional arguments, fake tensors in any nesting.
        mode: the mode all fake tensors belong to.

    Raises:
        UntraceableError: naming what stands in the way.
    """
    tracer, real = _Tracer(args), RealConstants()  # type: ignore[no-untyped-call]
    try:
        # Code that makes tensors without naming a device gets them where the parameters are.
        place = default_device(device_of(model))
        passing = passing_for_tensors(stands_for_tensor)
        with mode, real, place, torch.no_grad(), quiet(), _buffers_kept(model), passing:
            graph = tracer.trace(model)
    except Exception as error:
        where = tracer.failing if tracer.failing is not None else ""
        reason = first_line(error)
        if isinstance(error, ValueNeededError) or "DataDependent" in type(error).__name__:
            reason = "its control flow depends on the values of a tensor"
        elif "DynamicOutputShape" in type(error).__name__:
            reason = (
                "the shape of a result depends on the values of a tensor, as that of x[:, mask] "
                "does; select by numbers, or multiply by the mask"
            )
        elif ShapedProxy.__name__ in reason or "incompatible function arguments" in reason:
            reason = (
                "it hands a tensor to code that cannot be looked into, such as "
                "torch.vmap or a function of torch.jit.script; call the Python function instead"
            )
        message = f"{where or type(model).__name__} cannot be traced: {reason}"
        raise UntraceableError(message, where) from error
    return Recording(graph, tracer.calls)


class _Tracer(fx.Tracer):
    """Computes each node's fake value as it is made, and stops at layers and blocks."""

    proxy_buffer_attributes = True

    def __init__(self, args: Sequence[Any]) -> None:
        super().__init__()
        self.failing: str | None = None
        self.calls: list[ModuleCall] = []
        self._args = list(args)
        self._computing = False
        self._caller = ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, ReparamBlock) or super().is_leaf_module(m, module_qualified_name)

    def path_of_module(self, mod: nn.Module) -> str:
        try:
            return super().path_of_module(mod)
        except NameError:
            raise RuntimeError(
                f"{type(mod).__name__} is called but is no submodule of the network"
            ) from None

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self._computing:
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        self._caller = self.scope.module_path
        if self.is_leaf_module(m, path) and (m._forward_hooks or m._forward_pre_hooks):
            self.failing = path
            raise RuntimeError(
                "it has a forward hook, which may change what it gives; remove the hook, or put "
                "what it does into the network's code"
            )
        try:
            result = super().call_module(m, forward, args, kwargs)
        except Exception:
            if self.failing is None:
                is_leaf = self.is_leaf_module(m, path)
                self.failing = self.scope.module_path if is_leaf else path
            raise
        self.calls.append(ModuleCall(path, *_as_nodes((args, kwargs, result))))
        return result

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self._computing or type(attr_val) is ShapedProxy:  # the code put it there itself
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_arg(self, a: Any) -> Any:
        return a.node if type(a) is ShapedProxy else super().create_arg(a)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        is_call = node.op == "call_module"
        node.meta["owner"] = self._caller if is_call else self.scope.module_path
        node.meta["value"] = self._value(node)
        return node

    def proxy(self, node: fx.Node) -> Any:
        if node.op == "placeholder" and not leaves(node.meta["value"]):
            return node.meta["value"]  # an option: code may ask ``mask is None``
        return ShapedProxy(node, self)

    def to_bool(self, obj: Proxy) -> bool:
        assert isinstance(obj, ShapedProxy)
        return bool(obj.plain())

    def iter(self, obj: Proxy) -> Iterator[Any]:
        return iter([operator.getitem(obj, k) for k in range(len(obj.node.meta["value"]))])

    def keys(self, obj: Proxy) -> Any:
        return list(obj.node.meta["value"].keys())

    def _value(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self._given(node)
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta["value"])
        with self._compute():
            if node.op == "get_attr":
                return operator.attrgetter(str(node.target))(self.root)
            is_call = node.op == "call_module"
            module = self.root.get_submodule(str(node.target)) if is_call else None
            return run_node(node, args, kwargs, module)

    def _given(self, node: fx.Node) -> Any:
        """What the network is called with at a placeholder."""
        if str(node.target).startswith("**"):
            return {}
        if str(node.target).startswith("*"):
            rest, self._args = tuple(self._args), []
            return rest
        default = node.args[0] if node.args else None
        return self._args.pop(0) if self._args else default

    @contextlib.contextmanager
    def _compute(self) -> Iterator[None]:
        self._computing = True
        try:
            yield
        finally:
            self._computing = False


def run_node(node: fx.Node, args: Any, kwargs: Any, module: nn.Module | None = None) -> Any:
    """Run one operation on these arguments; ``module`` is the one it calls, if it calls one."""
    if node.op == "output":
        return args[0]
    if module is not None:
        return module.forward(*args, **kwargs)  # not __call__, which fx takes over while recording
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)


@contextlib.contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """Take back what code assigns to buffers while it is recorded."""
    every = (module._buffers for module in model.modules())
    before = [(buffers, dict(buffers)) for buffers in every if isinstance(buffers, dict)]
    try:
        yield
    finally:
        for buffers, old in before:
            buffers.clear()
            buffers.update(old)


def _as_nodes(value: Any) -> Any:
    return tree_map(lambda v: v.node if isinstance(v, Proxy) else v, value)
