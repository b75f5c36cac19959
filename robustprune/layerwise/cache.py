"""The inputs of a module of a chain, kept for all batches, so that it can be run alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from robustprune.layerwise.calls import Arguments, first_and_rest
from robustprune.layerwise.chains import Chain


class Enough(BaseException):
    """It ends a forward pass. It is not an Exception, so that no network catches it by mistake."""


class Cache:
    """The inputs of one module of a chain, for all batches, on the CPU."""

    def __init__(
        self,
        network: nn.Module,
        chain: Chain,
        calls: Sequence[Callable[[nn.Module], object]],
        device: torch.device,
    ) -> None:
        self.device, self.chain = device, chain
        self.modules = [network.get_submodule(name) for name in chain.modules]
        self.number = 0
        self.hidden: list[object] = []
        self.other: list[tuple[Arguments, ...]] = []
        for call in calls:
            self._take_in(lambda call=call: call(network))  # type: ignore[misc]

    @torch.no_grad()
    def _take_in(self, call: Callable[[], object]) -> None:
        """Run the network up to the last module whose arguments are needed."""
        given: list[Arguments] = []
        copies: dict[int, tuple[Tensor, Tensor]] = {}  # tensors that modules share are kept once

        def keep(tensor: Tensor) -> Tensor:
            known = copies.setdefault(id(tensor), (tensor, tensor.detach().to("cpu", copy=True)))
            return known[1]

        number = 1 if self.chain.alone else len(self.modules)

        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found = first_and_rest(args, kwargs)
            assert found is not None
            if not given:
                self.hidden.append(Arguments((found[0],), {}).mapped(keep).args[0])
            given.append(found[1].mapped(keep))
            if len(given) == number:
                raise Enough

        handles = [
            module.register_forward_pre_hook(note, with_kwargs=True)
            for module in self.modules[:number]
        ]
        try:
            call()
        except Enough:
            pass
        finally:
            for handle in handles:
                handle.remove()
        if len(given) < number:
            raise ValueError(
                f"module {self.chain.modules[len(given)]!r} is called in some batches and not in "
                "others; give batches that take the same way through the network"
            )
        self.other.append(tuple(given))

    def run(self, batch: int) -> object:
        """Return the module's output on a batch."""
        other = self.other[batch][0 if self.chain.alone else self.number]
        moved = Arguments((self.hidden[batch], *other.args), other.kwargs).mapped(
            lambda tensor: tensor.to(self.device, copy=True)
        )
        return cast(object, self.modules[self.number](*moved.args, **moved.kwargs))

    @torch.no_grad()
    def move_on(self) -> None:
        """Replace the inputs of the module by those of the next module."""
        first = self.chain.first[self.number]
        for batch in range(len(self.hidden)):
            output = self.run(batch)
            hidden = cast("tuple[object, ...]", output)[0] if first else output
            kept = Arguments((hidden,), {}).mapped(lambda t: t.detach().to("cpu", copy=True))
            self.hidden[batch] = kept.args[0]
        self.number += 1
