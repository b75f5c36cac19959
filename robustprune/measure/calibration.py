"""Calibration: whether a network is right as often as its confidence says, clean and attacked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks import Attack
from attacks.inputs import check_at_least, check_logits
from robustprune.measure.answers import adversarial_examples, all_logits, checked_labels

#: the number of bins of ECE in Guo et al. 2017
BINS = 15


@dataclass(frozen=True, repr=False)
class Calibration:
    """How well the confidence of a network fits its accuracy, on N examples.

    Attributes:
        n: the number of examples.
        accuracy: the share that is classified correctly.
        confidence: the mean probability of the predicted class.
        ece: the expected calibration error, in [0, 1]; 0 is best.
        nll: the mean negative log-likelihood of the label, in nats.
        brier: the mean Brier score over all classes, in [0, 2]; 0 is best.
        counts, bin_confidence, bin_accuracy: (M,) the reliability diagram: the number of examples
            in each of M bins of confidence, and their mean confidence and accuracy (NaN in an
            empty bin).
    """

    n: int
    accuracy: float
    confidence: float
    ece: float
    nll: float
    brier: float
    counts: Tensor
    bin_confidence: Tensor
    bin_accuracy: Tensor

    def __repr__(self) -> str:
        return (
            f"Calibration(n={self.n}, accuracy={self.accuracy:.4g}, "
            f"confidence={self.confidence:.4g}, ece={self.ece:.4g} ({len(self.counts)} bins), "
            f"nll={self.nll:.4g}, brier={self.brier:.4g})"
        )


def calibration(
    model: nn.Module, x: Tensor, y: Tensor, *, bins: int = BINS, batch_size: int | None = None
) -> Calibration:
    """Measure the calibration of a network; p = softmax(f(x)), and the confidence is max_k p_k.

        ECE = Σ_m |B_m|/n · |acc(B_m) − conf(B_m)|,  B_m: confidence in ((m−1)/M, m/M]
        NLL = −1/n Σ_i log p_i(y_i),   Brier = 1/n Σ_i Σ_k (p_i(k) − [y_i = k])²

    ECE: Guo et al. 2017, arXiv 1706.04599, Eq. 3, with bins of equal width. Brier: Monthly Weather
    Review 1950. The ECE of few examples is too large, because the accuracy of a bin with few of
    them is noisy: compare it on the same examples only.

    Args:
        x: (N, ...), y: (N,); on the model's device.
        bins: M.

    Raises:
        ValueError: there are no examples, `bins` is below 1, a label is no class, or a logit is
            NaN. A network with one logit z of two classes must return stack((-z/2, z/2), dim=1).
    """
    return calibration_of(all_logits(model, x, y, batch_size=batch_size), y, bins=bins)


def attacked_calibration(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: Attack,
    *,
    bins: int = BINS,
    batch_size: int | None = None,
) -> Calibration:
    """Measure calibration on adversarial examples of the network itself: how sure it is where an
    attack made it wrong.

    Raises:
        ValueError: as in `calibration`, or the attack returned invalid inputs.
    """
    found = adversarial_examples(model, x, y, attack, batch_size=batch_size)
    return calibration(model, found, y, bins=bins, batch_size=batch_size)


def calibration_of(logits: Tensor, y: Tensor, *, bins: int = BINS) -> Calibration:
    """Measure calibration from logits (N, C) and labels (N,), see `calibration`."""
    check_at_least(1, bins=bins)
    if len(logits) == 0:
        raise ValueError("calibration needs at least one example, got none")
    logits, y = logits.double().cpu(), checked_labels(y, len(logits)).cpu()
    check_logits(logits, y)
    sure, answers = logits.softmax(1).max(1)
    right = (answers == y).double()
    place = _bins_of(sure, bins)
    counts = torch.bincount(place, minlength=bins)
    in_bin = F.one_hot(place, bins).double()
    return Calibration(
        n=len(y),
        accuracy=float(right.mean()),
        confidence=float(sure.mean()),
        ece=float(gaps(logits, y, bins=bins).mean(0).abs().sum()),
        nll=float(losses(logits, y).mean()),
        brier=float(brier_scores(logits, y).mean()),
        counts=counts,
        bin_confidence=sure @ in_bin / counts,
        bin_accuracy=right @ in_bin / counts,
    )


def losses(logits: Tensor, y: Tensor) -> Tensor:
    """Return −log p(y) of each example, (N,), in nats; infinite where the label has p = 0."""
    return F.cross_entropy(logits.double().cpu(), y.cpu().long(), reduction="none")


def brier_scores(logits: Tensor, y: Tensor) -> Tensor:
    """Return Σ_k (p(k) − [y = k])² of each example, (N,)."""
    p = logits.double().cpu().softmax(1)
    return (p - F.one_hot(y.cpu().long(), p.shape[1])).square().sum(1)


def gaps(logits: Tensor, y: Tensor, *, bins: int = BINS) -> Tensor:
    """Return [correct] − confidence of each example in the column of its bin, (N, M). The absolute
    values of the columns' means add up to ECE."""
    sure, answers = logits.double().cpu().softmax(1).max(1)
    gap = (answers == y.cpu()).double() - sure
    return F.one_hot(_bins_of(sure, bins), bins) * gap[:, None]


def _bins_of(sure: Tensor, bins: int) -> Tensor:
    """Return the bin of each confidence; a value on an edge belongs to the lower bin."""
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
    return torch.bucketize(sure.contiguous(), edges)
