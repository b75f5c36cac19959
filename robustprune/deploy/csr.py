"""A linear layer whose weight is stored and multiplied as compressed sparse rows (CSR)."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_HALVES = (torch.float16, torch.bfloat16)


class CSRLinear(nn.Module):
    """Compute y = W x + b, where only the non-zeros of W are stored and multiplied (CSR).

    The indices are int32, and the sparse matrix is on the left, (W xᵀ)ᵀ: this is the fastest layout
    of torch on a CPU. Gradients flow to the input, so that attacks work. The weight can't be
    trained.

    Args:
        in_features, out_features: as in `nn.Linear`.
        nonzeros: the number of stored weights; 0 is allowed.
        bias: whether the layer has a bias.

    Shapes: (..., in_features) -> (..., out_features).
    """

    crow: Tensor
    col: Tensor

    def __init__(
        self, in_features: int, out_features: int, nonzeros: int, bias: bool = True
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.nonzeros = nonzeros
        self.register_buffer("crow", torch.zeros(out_features + 1, dtype=torch.int32))
        self.register_buffer("col", torch.zeros(nonzeros, dtype=torch.int32))
        self.values = nn.Parameter(torch.zeros(nonzeros), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(out_features), requires_grad=False) if bias else None
        self._matrix: Tensor | None = None
        self._made_of: tuple[Tensor, ...] = ()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CSRLinear:
        self._matrix, self._made_of = None, ()  # they are replaced now
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __getstate__(self) -> dict[str, Any]:
        # torch can't copy it in every setting
        return {**self.__dict__, "_matrix": None, "_made_of": ()}

    def forward(self, input: Tensor) -> Tensor:
        if input.dtype == self.values.dtype and input.dtype in _HALVES:
            # torch has no such product in half precision; dense layers add up in float32, too
            return self._in_float32(input)
        parts = (self.crow, self.col, self.values)
        if self._matrix is None or any(map(operator.is_not, parts, self._made_of)):
            # once: at 99% zeros it takes a tenth of a product's time
            with torch.inference_mode(False):  # else no gradient could pass through it later
                self._matrix, self._made_of = self.matrix(), parts
        return self._product(self._matrix, self.bias, input)

    def _in_float32(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.float()
        with torch.inference_mode(False):  # made each time, because keeping it takes memory
            matrix = self.matrix(dtype=torch.float32)
        return self._product(matrix, bias, x.float()).to(x.dtype)

    def _product(self, matrix: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
        # Copied at most once: the output of another CSR layer has this layout already, and torch's
        # own copy inside the product would take 50% longer.
        flat = x if x.ndim == 2 else x.reshape(-1, self.in_features)
        if len(flat) == 1:  # one token of a language model: several times faster than a product
            row = flat[0]
            one = torch.mv(matrix, row) if bias is None else torch.addmv(bias, matrix, row)
            return one.view(*x.shape[:-1], self.out_features)
        rows = flat.T.contiguous()
        product = matrix @ rows if bias is None else torch.addmm(bias[:, None], matrix, rows)
        return product.T if x.ndim == 2 else product.T.reshape(*x.shape[:-1], self.out_features)

    def matrix(self, *, check: bool = False, dtype: torch.dtype | None = None) -> Tensor:
        """Return W as a torch CSR tensor. `check` says whether the indices are checked, which takes
        time."""
        with warnings.catch_warnings():
            # torch warns at the first CSR tensor of a process; a caller can do nothing about it.
            warnings.filterwarnings("ignore", message="Sparse (CSR tensor support|invariant)")
            return torch.sparse_csr_tensor(
                self.crow,
                self.col,
                self.values if dtype is None else self.values.to(dtype),
                (self.out_features, self.in_features),
                check_invariants=check,
            )

    def check(self) -> None:
        """Check the indices, because wrong ones would read memory outside the tensors.

        Raises:
            ValueError: row pointers or column indices do not form a CSR matrix.
        """
        try:
            self.matrix(check=True)
        except RuntimeError as error:
            raise ValueError(f"the indices are no CSR matrix: {error}") from error

    def dense(self) -> nn.Linear:
        """Return the same layer as a `nn.Linear`."""
        layer = nn.Linear(
            self.in_features, self.out_features, bias=self.bias is not None, device="meta"
        )
        layer.weight = nn.Parameter(self.matrix().to_dense())
        if self.bias is not None:
            layer.bias = nn.Parameter(self.bias.detach().clone())
        return layer.train(self.training)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"nonzeros={self.nonzeros}, bias={self.bias is not None}"
        )
