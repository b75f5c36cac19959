"""Batches straight from tensors, in an order that a resumed run repeats bit for bit."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from robustprune.tasks.task import Augment, Split

POOL = 50  # batches that are sorted by length together


class BatchLoader:
    """Iterate over (x, y) batches of a split; each `iter()` is one epoch.

    Shuffling and augmentation draw from the loader's own CPU generator, so that the order does not
    depend on the device, on the model, or on other random numbers drawn in between.

    Args:
        split: N examples.
        batch_size: examples per batch; the last batch is smaller where N is no multiple of it.
        shuffle: draw a new order each epoch.
        seed: of the generator.
        augment: (x, generator) -> x, applied to each batch.
        device: where the batches go; the whole split is put there once, at construction.
        drop_last: leave out a smaller last batch.
        lengths: (N,) int64, such as `view.token_counts`: batches are made of examples of like
            length, so that little of them is padding. A shuffled epoch is sorted by length within
            pools of 50 batches (which examples share a batch stays random), and its batches come
            in random order.

    Raises:
        ValueError: batch_size below 1, an empty split, drop_last with fewer than batch_size
            examples, or lengths without shuffle or not one for each example.

    Attributes:
        indices: (B,) int64, which examples of the split the last batch is made of.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int,
        augment: Augment | None = None,
        device: torch.device | str | None = None,
        drop_last: bool = False,
        lengths: Tensor | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size} must be at least 1")
        if len(split) == 0:
            raise ValueError("the split is empty; give at least one example")
        if drop_last and len(split) < batch_size:
            raise ValueError(
                f"batch_size {batch_size} exceeds the {len(split)} examples and drop_last leaves "
                "no batch; lower batch_size or set drop_last=False"
            )
        if lengths is not None and (not shuffle or lengths.shape != (len(split),)):
            raise ValueError(
                f"lengths of shape {tuple(lengths.shape)} need shuffle=True and one number for "
                f"each of the {len(split)} examples"
            )
        self.split = split if device is None else split.to(device)
        self.batch_size = batch_size
        self.shuffle, self.seed = shuffle, seed
        self.augment = augment
        self.drop_last = drop_last
        self.lengths = None if lengths is None else lengths.cpu()
        self.indices = torch.arange(0)
        self._generator = torch.Generator().manual_seed(seed)
        self._epoch_start = self._generator.get_state()
        self._next_batch = 0
        self._resumed = False

    def __len__(self) -> int:
        """Batches per epoch."""
        whole, rest = divmod(len(self.split), self.batch_size)
        return whole + bool(rest and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        first = self._next_batch if self._resumed else 0
        self._resumed = False
        order = self._order(resumed=first > 0).to(self.split.y.device)
        for index in range(first, len(self)):
            chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
            self.indices = chosen
            x, y = self.split.batch(chosen)
            if self.augment is not None:
                x = self.augment(x, self._generator)
            # Before the yield: a state saved while this batch is in use continues after it.
            self._next_batch = (index + 1) % len(self)
            yield x, y

    def _order(self, *, resumed: bool) -> Tensor:
        """(N,) int64 order of the epoch; a resumed epoch's is drawn again as at its start."""
        if not self.shuffle:
            return torch.arange(len(self.split))
        generator = self._generator
        if resumed:
            generator = torch.Generator()
            generator.set_state(self._epoch_start)
        else:
            self._epoch_start = self._generator.get_state()
        order = torch.randperm(len(self.split), generator=generator)
        if self.lengths is None:
            return order
        pools = torch.split(order, POOL * self.batch_size)
        sorted_pools = [pool[self.lengths[pool].argsort(stable=True)] for pool in pools]
        whole, batches = len(self), torch.split(torch.cat(sorted_pools), self.batch_size)
        # A smaller last batch stays the last: `len` and positions count on it.
        full = len(order) // self.batch_size
        shuffled = torch.randperm(full, generator=generator).tolist()
        return torch.cat([batches[i] for i in [*shuffled, *range(full, whole)]])

    def state_dict(self) -> dict[str, Tensor]:
        """Where the loader stands: two generator states (uint8) and the next batch's index.

        Taken between epochs or while a batch is in use; the first `iter()` after
        `load_state_dict` gives the batches that would have come next.
        """
        return {
            "generator": self._generator.get_state(),
            "epoch_start": self._epoch_start.clone(),
            "next_batch": torch.tensor(self._next_batch),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue where `state_dict` was taken, on the same split and batch size.

        Raises:
            ValueError: keys other than those of `state_dict`, or a position past the epoch's end.
        """
        if set(state) != {"generator", "epoch_start", "next_batch"}:
            raise ValueError(
                f"loader state has keys {sorted(state)}, expected epoch_start, generator, "
                "next_batch; pass what state_dict() returned"
            )
        next_batch = int(state["next_batch"])
        if not 0 <= next_batch < len(self):
            raise ValueError(
                f"loader state is at batch {next_batch} of an epoch of {len(self)} batches; "
                "resume with the same data and batch_size"
            )
        self._generator.set_state(state["generator"].cpu())
        self._epoch_start = state["epoch_start"].cpu().clone()
        self._next_batch = next_batch
        self._resumed = True
