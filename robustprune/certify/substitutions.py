"""Prove that no choice of substitutes for the words of a sentence changes a small network's class.

Every word may be replaced by any of its candidates, independently of the others. The input of the
network is the vectors of the words. So all these sentences lie in a box, which at each position is
the smallest one around the vectors of the candidates. A margin that is positive over the box is a
proof for every combination (Jia et al. 2019, arXiv 1909.00986, Sec. 3; Huang et al. 2019, arXiv
1909.01492). Bounds over the box get looser with the depth and width of a network, so this is for
bags of embeddings and small CNNs. For a transformer see `certify_synonyms`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attacks import ThreatModel
from robustprune.bounds import BoundGraph, BoundMethod, margin_bounds, trace


def substitution_margins(
    model: nn.Module | BoundGraph,
    vectors: Tensor,
    sentences: Sequence[Sequence[int]],
    candidates: Sequence[Sequence[Sequence[int]]],
    y: Tensor,
    *,
    method: BoundMethod = "crown-ibp",
) -> Tensor:
    """Return lower bounds of z_y − z_j over all combinations of candidates.

    Args:
        model: a model that takes word vectors (N, D, T) and returns logits (N, C), with operations
            that `bounds` supports; it is in eval mode meanwhile.
        vectors: (V, D), one row for each word.
        sentences: N sentences as rows of `vectors`, of any lengths.
        candidates: for each word of each sentence, the rows that may replace it; the word itself is
            always allowed.
        y: (N,) labels.
        method: as in `bounds.margin_bounds`; "ibp" is that of the cited papers, the others are
            tighter.

    Returns:
        (N, C) float64, with ∞ at j = y. A sentence is certified if the least value of its row is
        positive.

    Raises:
        ValueError: sentences, candidates and labels do not fit, a word is outside `vectors`, or as
            in `bounds.margin_bounds`.
    """
    if not len(sentences) == len(candidates) == len(y):
        raise ValueError(
            f"{len(sentences)} sentences, candidates of {len(candidates)} and {len(y)} labels do "
            "not fit; give one of each"
        )
    graph = model if isinstance(model, BoundGraph) else trace(model)
    margins = []
    for sentence, choices, label in zip(sentences, candidates, y, strict=True):
        x, lo, hi = candidate_box(vectors, sentence, choices)
        threat = _box_threat(x, lo, hi)
        margins.append(margin_bounds(graph, x[None], label[None], threat, method=method)[0])
    return torch.stack(margins)


def candidate_box(
    vectors: Tensor, sentence: Sequence[int], candidates: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sentence's vectors and the corners of the box around its candidates, (D, T) each.

    Raises:
        ValueError: the sentence is empty, the number of candidate lists differs from that of words,
            or a word is outside `vectors`.
    """
    if len(sentence) == 0 or len(candidates) != len(sentence):
        raise ValueError(
            f"{len(candidates)} lists of candidates for {len(sentence)} words; give one a word, "
            "and at least one word"
        )
    rows = [
        torch.tensor([word, *others]) for word, others in zip(sentence, candidates, strict=True)
    ]
    for row in rows:
        if int(row.min()) < 0 or int(row.max()) >= len(vectors):
            raise ValueError(f"words {row.tolist()} must be rows of the {len(vectors)} vectors")
    options = [vectors[row.to(vectors.device)] for row in rows]
    x = torch.stack([option[0] for option in options], dim=1)
    lo = torch.stack([option.amin(0) for option in options], dim=1)
    hi = torch.stack([option.amax(0) for option in options], dim=1)
    return x, lo, hi


def _box_threat(x: Tensor, lo: Tensor, hi: Tensor) -> ThreatModel:
    """Return the box as a threat model: an L∞ ball that covers it, cut by bounds to the box.

    Bounds must not be a single point; where the box is one, `support` forbids changes.
    """
    free = hi > lo
    # twice the distance, so that rounding ε down cannot cut the box
    reach = 2 * float(torch.maximum(hi - x, x - lo).max())
    return ThreatModel(
        "linf",
        reach,
        (torch.where(free, lo, lo - 1), torch.where(free, hi, hi + 1)),
        support=lambda _: free[None],
    )
