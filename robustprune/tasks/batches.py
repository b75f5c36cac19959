"""Make batches from tensors, in an order that a resumed run repeats bit for bit."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from robustprune.tasks.task import Augment, Split

POOL = 50  # number of batches whose examples are sorted by length together


class BatchLoader:
    """Iterate over the batches (x, y) of a split. Each `iter()` is one epoch.

    Shuffling and augmentation use the loader's own random generator on the CPU, so that the order
    does not depend on the device, on the model, or on other random numbers drawn in between.

    Args:
        split: the N examples.
        batch_size: the number of examples per batch, at least 1; the last batch is smaller where N
            is no multiple of it.
        shuffle: whether each epoch has a new random order.
        seed: the seed of the generator.
        augment: a function (x, generator) -> x that is applied to each batch; None for no
            augmentation.
        device: the device of the batches; the whole split is copied there once. None leaves it
            where it is.
        drop_last: whether a smaller last batch is left out.
        lengths: (N,) int64, the length of each example, such as `view.token_counts`. Batches are
            then made of examples of similar length, which need little padding: a shuffled epoch is
            sorted by length within pools of 50 batches, so that batches stay random, and the
            batches come in random order.

    Raises:
        ValueError: `batch_size` is below 1, the split is empty, `drop_last` is set with fewer than
            `batch_size` examples, or `lengths` comes without `shuffle` or has another size than N.

    Attributes:
        indices: (B,) int64, the positions in the split of the examples of the last batch.
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
        """Return the number of batches per epoch."""
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
        """Return the order of the epoch, (N,) int64. A resumed epoch draws its order again."""
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
        # A smaller last batch must stay the last, because `len` and positions assume it.
        full = len(order) // self.batch_size
        shuffled = torch.randperm(full, generator=generator).tolist()
        return torch.cat([batches[i] for i in [*shuffled, *range(full, whole)]])

    def state_dict(self) -> dict[str, Tensor]:
        """Return the position of the loader: two generator states (uint8) and the next batch's
        index.

        It can be taken between epochs or while a batch is in use. The first `iter()` after
        `load_state_dict` gives the batches that would have come next.
        """
        return {
            "generator": self._generator.get_state(),
            "epoch_start": self._epoch_start.clone(),
            "next_batch": torch.tensor(self._next_batch),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a result of `state_dict`, on the same split and with the same batch size.

        Raises:
            ValueError: the keys are not those of `state_dict`, or the position lies behind the end
                of the epoch.
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
