"""Calibration by hand and against scikit-learn, and of a network that is calibrated on purpose."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss
from torch import Tensor, nn

from attacks import FGSM, ThreatModel
from robustprune.measure import attacked_calibration, calibration, calibration_of


def logits_with(sure: list[float], wide: int = 2) -> Tensor:
    """Logits whose class 0 has these probabilities, the rest shared by the others."""
    p = torch.tensor(sure, dtype=torch.float64)[:, None]
    return torch.cat([p, ((1 - p) / (wide - 1)).expand(-1, wide - 1)], dim=1).log()


def test_ece_by_hand() -> None:
    """Bins of width 1/5: (0.6, 0.8] holds 0.7 and 0.8, (0.8, 1] holds 0.9 and 0.95."""
    logits = logits_with([0.7, 0.8, 0.9, 0.95])
    y = torch.tensor([0, 1, 0, 0])  # right, wrong, right, right
    found = calibration_of(logits, y, bins=5)
    low, high = abs(1 / 2 - 0.75), abs(1 - 0.925)
    assert found.ece == pytest.approx(low / 2 + high / 2)
    assert found.counts.tolist() == [0, 0, 0, 2, 2]
    assert found.bin_confidence[3:].tolist() == pytest.approx([0.75, 0.925])
    assert found.bin_accuracy[3:].tolist() == [0.5, 1.0]
    assert found.bin_accuracy[:3].isnan().all()
    assert found.accuracy == 0.75
    assert found.confidence == pytest.approx(0.8375)
    assert found.nll == pytest.approx(-sum(map(math.log, (0.7, 0.2, 0.9, 0.95))) / 4)
    assert found.brier == pytest.approx(2 * (0.09 + 0.64 + 0.01 + 0.0025) / 4)
    assert "ece=0.1625 (5 bins)" in repr(found)


def test_a_confidence_on_an_edge_belongs_to_the_lower_bin() -> None:
    found = calibration_of(logits_with([0.75, 0.75, 1.0]), torch.tensor([0, 1, 0]), bins=4)
    assert found.counts.tolist() == [0, 0, 2, 1]


@pytest.mark.parametrize("classes", [2, 7])
def test_nll_and_brier_are_scikit_learns(classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    logits = 3 * torch.randn(200, classes, generator=generator, dtype=torch.float64)
    y = torch.randint(classes, (200,), generator=generator)
    p, one_hot = logits.softmax(1).numpy(), np.eye(classes)[y]
    found = calibration_of(logits, y)
    assert found.nll == pytest.approx(log_loss(y, p, labels=range(classes)))
    assert found.brier == pytest.approx(((p - one_hot) ** 2).sum(1).mean())
    if classes == 2:
        assert found.brier == pytest.approx(2 * brier_score_loss(y, p[:, 1]))
    assert (found.bin_accuracy.nan_to_num() @ found.counts.double()) / 200 == pytest.approx(
        found.accuracy
    )


def test_labels_that_are_drawn_as_the_network_says_are_calibrated() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(40_000, 3, generator=generator, dtype=torch.float64)
    y = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    assert calibration_of(logits, y).ece < 0.012
    assert calibration_of(4 * logits, y).ece > 0.1


class Half(nn.Module):
    """A foreign network: half precision, in place, a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3).to(torch.bfloat16)

    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        x -= 1
        return self.inner(x), "rest"


def test_a_foreign_network_in_batches() -> None:
    model, x = Half().train(), torch.randn(11, 4).to(torch.bfloat16)
    before, y = x.clone(), torch.arange(11) % 3
    whole = calibration(model, x, y)
    assert calibration(model, x, y, batch_size=3).nll == pytest.approx(whole.nll, rel=1e-2)
    assert torch.equal(x, before)
    assert model.training


def test_under_attack_a_linear_network_is_sure_and_wrong() -> None:
    """x = ±1 with margin 2·x; FGSM with eps 2 moves every example to ∓1, its mirror image."""
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    x, y = torch.tensor([[1.0], [-1.0]] * 5), torch.tensor([0, 1] * 5)
    found = attacked_calibration(model, x, y, FGSM(ThreatModel("linf", 2.0)), batch_size=3)
    clean = calibration(model, x, y)
    assert (clean.accuracy, found.accuracy) == (1.0, 0.0)
    assert found.confidence == pytest.approx(clean.confidence)
    assert found.ece == pytest.approx(found.confidence)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_labels_of_any_whole_numbers(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(20, 3, generator=generator)
    y = torch.arange(20) % 3
    wanted, found = calibration_of(logits, y), calibration_of(logits, y.to(dtype))
    assert (found.nll, found.brier, found.ece) == (wanted.nll, wanted.brier, wanted.ece)


def test_a_class_that_is_excluded_is_infinitely_unlikely() -> None:
    """p = (½, ½, 0): Brier ½ for the first label and 1½ for the last, whose loss is infinite."""
    logits = torch.tensor([[0.0, 0.0, -math.inf]]).expand(2, 3)
    found = calibration_of(logits, torch.tensor([0, 2]))
    assert (found.nll, found.brier) == (math.inf, pytest.approx(1.0))
    assert calibration_of(logits, torch.tensor([0, 1])).nll == pytest.approx(math.log(2))


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"labels are torch.float32, \(1,\); give whole numbers"):
        calibration(nn.Linear(2, 2), torch.zeros(1, 2), torch.zeros(1))
    with pytest.raises(ValueError, match=r"labels are torch.int64, \(3,\)"):
        calibration(nn.Linear(2, 2), torch.zeros(2, 2), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
        calibration(
            nn.Linear(2, 2), torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), batch_size=0
        )
    with pytest.raises(ValueError, match="for one logit z pass stack"):
        calibration_of(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="at least one example"):
        calibration_of(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="bins=0 must be at least 1"):
        calibration_of(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), bins=0)
    with pytest.raises(ValueError, match="labels range over"):
        calibration(nn.Linear(2, 2), torch.zeros(1, 2), torch.tensor([2]))
