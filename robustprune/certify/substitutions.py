"""Proofs that no choice of substitutes for the words of a sentence changes a small network's class.

Every word may be replaced by any of its candidates, independently of the others. The network sees
a sentence as its words' vectors, so all these sentences lie in the box that is, at each place, the
smallest one around the candidates' vectors; a margin that is positive over the box is a proof for
every combination (Jia et al. 2019, arXiv 1909.00986, Sec. 3; Huang et al. 2019, arXiv 1909.01492).
The box grows with depth and width of a network: this is for bags of embeddings and small CNNs. For
a transformer see `certify_synonyms`.
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
    """Lower bounds of z_y − z_j over all combinations of candidates.

    Args:
        model: takes word vectors (N, D, T) and returns logits (N, C), with operations that
            `bounds` knows; in eval mode meanwhile.
        vectors: (V, D), one row a word.
        sentences: N sentences as rows of `vectors`, of any lengths.
        candidates: for each sentence, for each of its words, the rows that may stand in its
            place; the word itself always may.
        y: (N,) labels.
        method: of `bounds.margin_bounds`; "ibp" is the cited papers', the others are tighter.

    Returns:
        (N, C) float64, ∞ at j = y: a sentence is certified where the least of its row is
        positive.

    Raises:
        ValueError: sentences, candidates and labels that do not fit, a word outside `vectors`, or
            as `bounds.margin_bounds`.
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
    """The sentence's vectors and the corners of the box around its candidates': (D, T) each.

    Raises:
        ValueError: an empty sentence, another number of candidate lists than of words, or a word
            outside `vectors`.
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
    """The box as a threat model: an L∞ ball that covers it, cut to it.

    Bounds must leave some room; where the box has none, `support` keeps the input as it is.
    """
    free = hi > lo
    # twice the reach, so that rounding ε down cannot cut the box
    reach = 2 * float(torch.maximum(hi - x, x - lo).max())
    return ThreatModel(
        "linf",
        reach,
        (torch.where(free, lo, lo - 1), torch.where(free, hi, hi + 1)),
        support=lambda _: free[None],
    )
