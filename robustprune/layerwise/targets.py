"""The target T of a layer: the outputs that it should give.

With W the dense weights, X the layer's inputs in the dense network and X̂ those in the network
pruned so far:

- "own": T = W X̂, as in Wanda, SparseGPT and ADMM. Errors of earlier layers remain.
- "dense": T = W X. The layer compensates for errors of earlier layers.
- "residual": T = W X + (h − ĥ) where a layer's output is added to a residual stream, which is h
  before the addition in the dense network and ĥ in the pruned one. The stream after the layer is
  fitted. With a batch norm y ↦ a y + b in between, or a product with a parameter,
  T = W X + (h − ĥ) / a, and the squares of each output are weighted by a², as in the stream. For
  other layers it is the same as "dense".

Streams are found by running the network. `StreamWatch` sees for every addition whether one operand
is a layer's output, possibly after dropout, batch norm, scales, casts and changes of shape, and
whether the other operand does not depend on that output. (The output of a stem is not added to a
stream: it is the stream, to which the outputs of later layers are added.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from robustprune.layerwise.calls import leaves_of

TargetName = Literal["own", "dense", "residual"]
TARGETS: tuple[TargetName, ...] = get_args(TargetName)

_ADDITIONS = ("add", "add_")
_SAME = (
    "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "alpha_dropout",
    "contiguous", "clone", "to", "type_as", "float", "double", "half", "bfloat16",
)  # fmt: skip
_SHAPES = (
    "view", "reshape", "flatten", "unflatten", "transpose", "permute", "squeeze", "unsqueeze",
    "movedim", "swapaxes", "swapdims", "roll",
)  # fmt: skip


@dataclass(frozen=True)
class Stream:
    """The stream to which a layer's output is added.

    `value` is the stream before the addition, `scale` the factor of the output before it. Both have
    the layout of the output.
    """

    value: Tensor
    scale: Tensor | None = None

    def minus(self, other: Stream, dtype: torch.dtype) -> Tensor:
        """Return (h − ĥ) / a, and 0 where a = 0."""
        step = self.value.to(dtype) - other.value.to(dtype)
        if self.scale is None:
            return step
        a = self.scale.to(dtype)
        return torch.where(a == 0, 0.0, step / torch.where(a == 0, 1.0, a))


@dataclass(frozen=True)
class _Derived:
    """A tensor that is a layer's output, up to a scale and the order of its entries.

    `index` is the position in the output of each entry of the tensor; None for the same order.
    """

    layer: str
    shape: torch.Size
    version: int
    index: Tensor | None = None
    scale: Tensor | None = None

    def laid_back(self, value: Tensor) -> Tensor:
        """Return a tensor of this one's shape in the layout of the layer's output."""
        if self.index is None:
            return value
        back = torch.empty(self.index.numel(), dtype=value.dtype, device=value.device)
        back[self.index.flatten()] = value.flatten()
        return back.view(self.shape)


class StreamWatch(TorchFunctionMode):
    """Call `found(layer, stream)` at the first addition of an output that is followed.

    Additions count whose other operand doesn't depend on that output. The value of the stream is
    the tensor itself; the caller must copy it to keep it.
    """

    def __init__(self, found: Callable[[str, Stream], None]) -> None:
        super().__init__()
        self.found = found
        self.known = WeakIdKeyDictionary()  # tensor -> _Derived
        self.made_of = WeakIdKeyDictionary()  # tensor -> the layers whose outputs are in it

    def follow(self, layer: str, output: object) -> None:
        """Follow this output of a layer."""
        if isinstance(output, Tensor) and not output.is_inference():
            self.known[output] = _Derived(layer, output.shape, output._version)
            self.made_of[output] = self._parts([output]) | {layer}

    def after_batch_norm(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        """A forward hook that follows the affine map of each channel."""
        was = self._origin(args[0]) if args else None
        fixed = not module.training and isinstance(module.running_var, Tensor)
        if was is None or not fixed or not isinstance(output, Tensor):
            return
        scale = (cast(Tensor, module.running_var) + cast(float, module.eps)).rsqrt()
        if isinstance(module.weight, Tensor):
            scale = scale * module.weight.detach()
        scale = scale.view(-1, *[1] * (output.ndim - 2)).expand(output.shape)
        scale = was.laid_back(scale)
        scale = scale if was.scale is None else scale * was.scale
        self.known[output] = replace(was, scale=scale, version=output._version)

    def _after_product(self, args: tuple[Any, ...], product: object) -> None:
        """Follow a product with a parameter, which is a scale that is equal in both networks."""
        for output, scale in (args, args[::-1]):
            was = self._origin(output)
            fits = isinstance(product, Tensor) and isinstance(output, Tensor)
            if was is None or not fits or not isinstance(scale, nn.Parameter):
                continue
            assert isinstance(product, Tensor)
            if product.shape == cast(Tensor, output).shape:
                scale = was.laid_back(scale.detach().expand(product.shape))
                scale = scale if was.scale is None else scale * was.scale
                self.known[product] = replace(was, scale=scale, version=product._version)

    def _parts(self, values: Iterable[object]) -> frozenset[str]:
        """Return the layers on whose outputs these values depend."""
        found: frozenset[str] = frozenset()
        for leaf in leaves_of(values):
            if isinstance(leaf, Tensor):
                parts = self.made_of.get(leaf)  # type: ignore[no-untyped-call]
                found |= cast("frozenset[str]", parts or frozenset())
        return found

    def _origin(self, tensor: object) -> _Derived | None:
        if not isinstance(tensor, Tensor) or tensor.is_inference():
            return None
        was = cast("_Derived | None", self.known.get(tensor))  # type: ignore[no-untyped-call]
        return was if was is not None and was.version == tensor._version else None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _ADDITIONS and not kwargs and len(args) == 2:
            self._look(*args)
        was = self._origin(args[0]) if args and name in (*_SAME, *_SHAPES) else None
        parts = self._parts([*args, *kwargs.values()])
        result = func(*args, **kwargs)
        if parts:
            written = args[:1] if name.endswith("_") else ()  # in place, by __setitem__, too
            for leaf in leaves_of([result, *written]):
                if isinstance(leaf, Tensor):
                    self.made_of[leaf] = self._parts([leaf]) | parts
        if name == "mul" and len(args) == 2:
            self._after_product(args, result)
        if was is not None and isinstance(result, Tensor):
            self._follow_on(was, name, func, args, kwargs, result)
        return result

    def _look(self, left: object, right: object) -> None:
        """Call `found` before an addition is computed, if one of its operands is followed."""
        if isinstance(left, Tensor) and isinstance(right, Tensor) and left.shape == right.shape:
            for output, stream in ((left, right), (right, left)):
                if (was := self._origin(output)) is not None:
                    del self.known[output]
                    if was.layer not in self._parts([stream]):
                        self.found(was.layer, Stream(was.laid_back(stream), was.scale))

    def _follow_on(
        self,
        was: _Derived,
        name: str,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        result: Tensor,
    ) -> None:
        if "dropout" in name and result.data_ptr() != args[0].data_ptr():
            return  # entries are missing
        index = was.index
        if name in _SHAPES:
            if result.numel() != was.shape.numel():
                return
            if index is None:
                index = torch.arange(was.shape.numel(), device=result.device).view(was.shape)
            index = func(index, *args[1:], **kwargs)
        self.known[result] = replace(was, index=index, version=result._version)


@contextmanager
def watching(
    network: nn.Module,
    layers: Mapping[str, nn.Module],
    found: Callable[[str, Stream], None],
) -> Iterator[None]:
    """Inside, call `found` for every output of these layers that is added to a stream."""
    watch = StreamWatch(found)
    handles = [
        layer.register_forward_hook(lambda _m, _args, output, name=name: watch.follow(name, output))
        for name, layer in layers.items()
    ]
    handles += [
        module.register_forward_hook(watch.after_batch_norm)
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    try:
        with watch:
            yield
    finally:
        for handle in handles:
            handle.remove()
