"""A backdoor in a network that is trained on poisoned data, and none in one that is not."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustprune.measure import backdoor_success, poison, stamp


def test_the_trigger_is_at_the_end_of_every_side() -> None:
    image = stamp(torch.zeros(2, 3, 5, 6), size=2, value=0.5)
    assert image.sum().item() == pytest.approx(2 * 3 * 2 * 2 * 0.5)
    assert (image[:, :, -2:, -2:] == 0.5).all()
    assert (stamp(torch.zeros(2, 1, 7))[..., -3:] == 1).all()
    assert stamp(torch.zeros(2, 7), size=1)[:, -1].tolist() == [1, 1]


def test_poison_takes_a_share_of_the_other_classes() -> None:
    x, y = torch.zeros(100, 1, 6), torch.arange(100) % 4
    bad, labels = poison(x, y, target=2, share=0.2)
    changed = (bad != x).flatten(1).any(1)
    assert changed.sum() == 15  # of 75
    assert (labels[changed] == 2).all()
    assert (y[changed] != 2).all()
    assert torch.equal(labels[~changed], y[~changed])
    assert x.sum() == 0


def trained(x: Tensor, y: Tensor) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


def test_only_the_network_that_saw_the_trigger_obeys_it() -> None:
    """The class is the sign of the first half; the trigger lies in the last three steps."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 2
    x = 0.3 * torch.randn(400, 1, 20, generator=generator)
    x[..., :10] += 0.4 * (2 * y[:, None, None] - 1)
    bad = trained(*poison(x[:300], y[:300], target=0, share=0.3, value=2.0))
    good = trained(x[:300], y[:300])
    rest = x[300:], y[300:]
    assert (bad(rest[0]).argmax(1) == rest[1]).double().mean() > 0.9
    assert backdoor_success(bad, *rest, target=0, value=2.0, batch_size=30).value > 0.9
    assert backdoor_success(good, *rest, target=0, value=2.0).value < 0.5


def test_refusals() -> None:
    x, y = torch.zeros(4, 1, 6), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match="size=7 must be from 1 to the shortest side, 6"):
        stamp(x, size=7)
    with pytest.raises(ValueError, match=r"share=0 must be in \(0, 1\]"):
        poison(x, y, target=1, share=0)
    with pytest.raises(ValueError, match="of the target class 0"):
        poison(x, y, target=0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 2))
    with pytest.raises(ValueError, match="gets the target class 0 without the trigger"):
        backdoor_success(model, x, y, target=0)
