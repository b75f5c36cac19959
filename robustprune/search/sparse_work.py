"""The work of sparse training: the multiply-accumulates that an engine without zeros would need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from robustprune.minmax import EpochRecord
from robustprune.sparsity import is_single
from robustprune.sparsity.matrices import RECURRENT, uses_of


class Work:
    """Compare the multiply-accumulates of masked layers with those of dense ones.

    A forward pass uses each weight of a layer equally often, so that the share of a network is
    Σ uses · kept / Σ uses · all over its linear, convolutional and recurrent layers.
    """

    def __init__(self) -> None:
        self.uses: dict[str, int] = {}
        self._hooks: list[RemovableHandle] = []

    def watch(self, network: nn.Module, layers: Mapping[str, nn.Module]) -> None:
        """Count the uses of the weights of layers in the next forward pass of the network. A layer
        of an own class whose output is no tensor is not counted."""
        self._hooks.append(network.register_forward_hook(lambda *_: self.stop()))
        for name, layer in layers.items():
            if is_single(layer) or isinstance(layer, RECURRENT):

                def note(
                    layer: nn.Module, args: Any, kwargs: Any, output: Any, name: str = name
                ) -> None:
                    source = args[0] if args else next(iter(kwargs.values()))
                    if isinstance(output, Tensor) or isinstance(layer, RECURRENT):
                        self.uses[name] = self.uses.get(name, 0) + uses_of(layer, source, output)

                self._hooks.append(layer.register_forward_hook(note, with_kwargs=True))

    def stop(self) -> None:
        """Remove the hooks from the network, where there are any left."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def share(self, masks: Mapping[str, Tensor]) -> float:
        """Return the share of a forward pass under these masks; 0 if no use was counted."""
        every = sum(uses * masks[name].numel() for name, uses in self.uses.items())
        kept = sum(uses * int(masks[name].sum()) for name, uses in self.uses.items())
        return kept / every if every else 0.0


def training_work(history: Iterable[EpochRecord], steps: int) -> float | None:
    """Return the multiply-accumulates of a sparse training as a share of those of dense training.

    A step with PGD-k passes 2k + 3 times through the weights: forward and back to the input for
    each step of the attack; forward, back, and to the weights for the update. Each pass takes the
    share f of the dense one, except the gradient of weights where the dense gradient is asked for:

        f + (1 − f) · (steps with the dense gradient / steps) / (2k + 3)

    (Evci et al. 2020, arXiv 1911.11134, App. G, with an attack).

    Args:
        history: the records of `train_sparse`.
        steps: k, the steps of the inner attack; 0 for none.

    Returns:
        The share, or None if the records do not have it: of a compiled network, or one that calls
        none of the layers itself.
    """
    records = list(history)
    if not records or any("work" not in record.figures for record in records):
        return None
    lengths = [after - before for before, after in pairwise([0, *(r.step for r in records)])]
    spent = 0.0
    for record, length in zip(records, lengths, strict=True):
        share, full = record.figures["work"], record.figures["dense_steps"]
        spent += share * length + (1 - share) * full / (2 * steps + 3)
    return spent / sum(lengths)
