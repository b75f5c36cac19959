"""Let `torch.compile` take over the forward pass of a model for a while."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def compiled(model: nn.Module) -> Iterator[None]:
    """Inside this context, `torch.compile` runs `model`. It makes one graph for training, one for
    validation and one for each shape of a batch. Weights and their names do not change."""
    model.compile()
    with warnings.catch_warnings():
        # dynamo looks at the .grad of whatever it traces, masked weights included
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a l")
        try:
            yield
        finally:
            model._compiled_call_impl = None  # torch has no other way to undo it
