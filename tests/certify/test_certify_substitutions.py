"""Word substitutions: bounds over candidate boxes against every combination."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from robustprune.certify.substitutions import candidate_box, substitution_margins

VECTORS = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
SENTENCES = [[0, 1, 2], [3, 4], [5]]
CANDIDATES = [[[6, 7], [], [8, 9, 10]], [[5, 11], [2]], [[]]]


def small_cnn(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv1d(4, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        nn.Linear(6, 3),
    )  # fmt: skip
    return model.eval()


def bag(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3)).eval()


def worst(model: nn.Module, sentence: list[int], choices: list[list[int]], label: int) -> Tensor:
    """min over all combinations of z_y − z_j."""
    options = [[word, *others] for word, others in zip(sentence, choices, strict=True)]
    inputs = torch.stack([VECTORS[list(words)].T for words in itertools.product(*options)])
    logits = model(inputs).detach()
    return (logits[:, [label]] - logits).amin(0)


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown"])
@pytest.mark.parametrize("make", [small_cnn, bag])
def test_never_above_the_worst_combination(make, method: str) -> None:
    certified = 0
    for seed in range(6):
        model = make(seed)
        y = torch.tensor(
            [int(model(VECTORS[s].T[None]).argmax()) for s in SENTENCES], dtype=torch.int64
        )
        bounds = substitution_margins(model, VECTORS, SENTENCES, CANDIDATES, y, method=method)
        for row, sentence, choices, label in zip(
            bounds, SENTENCES, CANDIDATES, y.tolist(), strict=True
        ):
            true = worst(model, sentence, choices, label)
            others = [j for j in range(3) if j != label]
            assert bool((row[others] <= true[others] + 1e-6).all())
            assert float(row[label]) == torch.inf
            certified += float(row.amin()) > 0
    assert certified > 0


def test_exact_where_the_box_is_a_line_of_the_candidates() -> None:
    """A linear network, one word, and candidates at two corners of their box."""
    vectors = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    bounds = substitution_margins(model, vectors, [[1]], [[[0]]], torch.tensor([0]))
    assert float(bounds[0, 1]) == pytest.approx(0.0, abs=1e-5)
    bounds = substitution_margins(model, vectors, [[1]], [[[]]], torch.tensor([0]))
    assert float(bounds[0, 1]) == pytest.approx(3.0)


def test_the_box_is_the_smallest() -> None:
    x, lo, hi = candidate_box(VECTORS, [0, 1], [[2, 3], []])
    assert torch.equal(x, VECTORS[[0, 1]].T)
    assert torch.equal(lo[:, 0], VECTORS[[0, 2, 3]].amin(0))
    assert torch.equal(hi[:, 0], VECTORS[[0, 2, 3]].amax(0))
    assert torch.equal(lo[:, 1], hi[:, 1])


def test_refusals() -> None:
    model = bag(0)
    with pytest.raises(ValueError, match="1 lists of candidates for 2 words"):
        candidate_box(VECTORS, [0, 1], [[2]])
    with pytest.raises(ValueError, match="must be rows of the 12 vectors"):
        candidate_box(VECTORS, [0], [[12]])
    with pytest.raises(ValueError, match="1 sentences, candidates of 0 and 1 labels"):
        substitution_margins(model, VECTORS, [[0]], [], torch.tensor([0]))
