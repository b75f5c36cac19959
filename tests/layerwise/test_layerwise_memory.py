"""What a layer takes while it is solved, as docs/methods/layerwise.md says."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from robustprune.layerwise.moments import Moments
from robustprune.layerwise.solvers import SOLVERS
from robustprune.sparsity import group_weight


class Peak(TorchDispatchMode):
    """The most bytes of tensors made inside that existed at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if not isinstance(leaf, Tensor):
                continue
            storage = leaf.untyped_storage()
            place, size = storage.data_ptr(), storage.nbytes()
            if size and place not in self.known:
                self.known.add(place)
                self.now += size
                weakref.finalize(storage, self.freed, place, size)
        self.most = max(self.most, self.now)
        return result

    def freed(self, place: int, size: int) -> None:
        self.known.discard(place)
        self.now -= size


def test_peak_counts_what_exists_at_the_same_time() -> None:
    with Peak() as peak:
        one = torch.zeros(1000)
        two = one + 1
        del one
        three = two * 2
        two.add_(three)
    assert peak.most == 8000


@pytest.mark.parametrize("solver", ["admm", "sparsegpt"])
@pytest.mark.parametrize(
    ("dtype", "of_weights", "of_inputs"), [(torch.float64, 72, 40), (torch.float32, 44, 32)]
)
@pytest.mark.parametrize(("rows", "columns"), [(256, 192), (192, 384)])
def test_a_layer_takes_what_the_page_says(
    solver: str, dtype: torch.dtype, of_weights: int, of_inputs: int, rows: int, columns: int
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(columns, rows, bias=False)
    groups, x = group_weight(layer), torch.randn(2 * columns, columns)
    with torch.no_grad(), Peak() as peak:
        moments = Moments(layer, groups, dtype=dtype)
        for part in x.split(16):
            moments.add(part, {"it": layer(part)})
        problem = moments.problem("it", groups, layer.weight, groups.number // 2)
        SOLVERS[solver].solve(problem)
    stated = of_weights * rows * columns + of_inputs * columns**2
    assert 0.9 * stated < peak.most < 1.02 * stated
