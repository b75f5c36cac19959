"""Count the multiply-accumulates of a network: those carried out, and those without a zero weight.

Linear, CSR, (transposed) convolution and recurrent layers are counted by their sizes. Every other
matrix product (attention, products in a forward) is counted where torch carries it out, by the
formulas of `torch.utils.flop_counter`; what has no formula there is named.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from attacks.modes import evaluating
from attacks.network import unwrapped
from robustprune.deploy.csr import CSRLinear
from robustprune.sparsity import computed_once, is_single, maskable_leaves
from robustprune.sparsity.matrices import RECURRENT, uses_of

#: parts of the names of torch's operations that multiply matrices
_PRODUCTS = frozenset(("mv", "addmv", "dot", "vdot", "_trilinear"))
_WORDS = ("mm", "convolution", "attention", "lstm", "gru", "rnn", "transformer")


@dataclass(frozen=True)
class Work:
    """The multiply-accumulates for one example: those carried out, those without a weight that is
    zero, and the modules whose products neither number contains."""

    macs: int
    effective: int
    uncounted: tuple[str, ...]


def count_macs(model: nn.Module, example: Tensor) -> tuple[int, int]:
    """Return the multiply-accumulates for one example: (carried out, without a zero weight), see
    `count_work`."""
    work = count_work(model, example)
    return work.macs, work.effective


@torch.no_grad()
def count_work(model: nn.Module, example: Tensor) -> Work:
    """Return the multiply-accumulates for one example, and the names of modules with products that
    can't be counted, such as "Bilinear 'mix'".

    Biases, norms and products element by element are not counted. A weight of a convolution is used
    once at each output position, padding included, that of a transposed one once at each input
    position, and those of a recurrent layer once at each time step. A product of two activations,
    as in attention, counts in full in both numbers.

    Args:
        example: a batch (N, ...) on the model's device.
    """
    model = unwrapped(model)
    watch = _Products(model)

    def note(layer: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Any) -> None:
        source = args[0] if args else kwargs["input"]
        positions = uses_of(layer, source, output)
        for leaf in maskable_leaves(layer):
            weight = cast(Tensor, getattr(layer, leaf))
            watch.macs += weight.numel() * positions
            watch.effective += int(torch.count_nonzero(weight)) * positions
        watch.inside -= 1  # only now, because reading a weight may multiply matrices

    def note_sparse(layer: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
        positions = math.prod(output.shape[:-1])
        sparse = cast(CSRLinear, layer)
        watch.macs += sparse.nonzeros * positions
        watch.effective += int(torch.count_nonzero(sparse.values)) * positions
        watch.inside -= 1

    def enter(_: nn.Module, args: Any) -> None:
        watch.inside += 1

    handles: list[Any] = []
    fused = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)  # it hides the products of attention
        for module in model.modules():
            sparse = isinstance(module, CSRLinear)
            if sparse or is_single(module) or isinstance(module, RECURRENT):
                handles.append(module.register_forward_pre_hook(enter))
                counted = note_sparse if sparse else note
                handles.append(module.register_forward_hook(counted, with_kwargs=True))
            else:
                handles.append(module.register_forward_pre_hook(watch.enter))
                handles.append(module.register_forward_hook(watch.leave))
        with evaluating(model), computed_once(model):
            watch.know_weights()
            with watch:
                model(example.clone())
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for handle in handles:
            handle.remove()
    size = len(example)
    return Work(watch.macs // size, watch.effective // size, tuple(watch.found))


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the products of matrices outside of layers that are counted by their sizes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model = model
        self.names = {module: name for name, module in model.named_modules()}
        self.stack: list[nn.Module] = []
        self.inside = self.macs = self.effective = 0
        self.storages: set[int] = set()
        self.found: dict[str, None] = {}

    def know_weights(self) -> None:
        """Note where the weights are, masked ones as well, inside `computed_once`."""
        weights = list(self.model.parameters())
        for module in self.model.modules():
            weights += [getattr(module, leaf) for leaf in maskable_leaves(module)]
        self.storages = {weight.untyped_storage().data_ptr() for weight in weights}

    def enter(self, module: nn.Module, args: Any) -> None:
        self.stack.append(module)

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self.stack.pop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        name = func.__name__.partition(".")[0]
        if self.inside:
            return output
        if (macs := _macs_of(func, args, kwargs or {}, output)) is not None:
            self.macs += macs
            self.effective += round(macs * self._share(args))
        elif name in _PRODUCTS or any(word in name for word in _WORDS):
            module = self.stack[-1]
            kind, path = type(module).__name__, self.names[module]
            self.found[f"{kind} {path!r}" if path else f"the forward of {kind}"] = None
        return output

    def _share(self, args: tuple[Any, ...]) -> float:
        """Return the share of weights that aren't zero, of a matrix among the factors."""
        shares = [
            int(torch.count_nonzero(one)) / one.numel()
            for one in args
            if isinstance(one, Tensor)
            and one.ndim > 1
            and one.numel()
            and one.untyped_storage().data_ptr() in self.storages
        ]
        return min(shares, default=1.0)


def _macs_of(func: Any, args: tuple[Any, ...], kwargs: Any, output: Any) -> int | None:
    """Return the multiply-accumulates of one operation, or None if there is no formula for it."""
    packet = func._overloadpacket
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=output)) // 2
    if "scaled_dot_product" in func.__name__:  # torch has a formula, but not for the CPU's
        shapes = (part.shape for part in args[:3])
        return int(sdpa_flop_count(*shapes)) // 2  # type: ignore[no-untyped-call]
    return None
