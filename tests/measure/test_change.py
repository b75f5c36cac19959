"""Comparisons measure by measure: against exact tests, by simulation, and on networks that differ
in a way that is known."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from attacks import FGSM, ThreatModel
from robustprune.measure import (
    Change,
    OnExamples,
    OnScores,
    calibration_of,
    changes,
    compare_trust,
    exact_difference,
    mcnemar,
    paired_auroc,
    paired_bootstrap,
    resamples,
    surrogates,
)
from robustprune.measure.calibration import gaps


def bits(rng: np.random.Generator, n: int, share: float) -> Tensor:
    return torch.from_numpy((rng.random(n) < share).astype(float))


def test_shares_are_compared_by_mcnemar_and_holm() -> None:
    rng = np.random.default_rng(0)
    before, after, noise = bits(rng, 80, 0.9), bits(rng, 80, 0.6), bits(rng, 80, 0.5)
    found = changes([OnExamples("same", noise, noise, 1), OnExamples("accuracy", before, after, 1)])
    worst, same = found
    assert worst.name == "accuracy"  # sorted: worst first
    test = mcnemar(before.tolist(), after.tolist())
    assert worst.p == test.p
    assert worst.adjusted == pytest.approx(2 * test.p)
    assert worst.difference == pytest.approx(test.difference)
    assert worst.verdict == "worse"
    assert worst.ci95[0] < worst.difference < worst.ci95[1] < 0
    assert (same.p, same.difference, same.verdict) == (1.0, 0.0, "no difference shown")
    # 8 examples that all differ in one direction: 2 · 2^(1 − 8) < 0.05, and not 7
    assert same.smallest == pytest.approx(math.ceil(1 + math.log2(2 / 0.05)) / 80)
    assert "accuracy: " in repr(worst)
    assert repr(worst).endswith("worse)")


def test_the_swap_test_of_a_mean_is_the_exact_randomisation_test() -> None:
    rng = np.random.default_rng(1)
    before = rng.normal(0, 1, 10)
    after = before + rng.normal(0.5, 1, 10)
    apart = after - before
    signs = np.array([[1 - 2 * (k >> i & 1) for i in range(10)] for k in range(1024)])
    exact = (np.abs(signs @ apart) >= abs(apart.sum()) - 1e-9).mean()
    (found,) = changes([OnExamples("loss", *map(torch.from_numpy, (before, after)), -1, "nats")])
    assert found.p == pytest.approx(exact, abs=0.02)
    assert found.harm == pytest.approx(apart.mean())


def test_the_value_of_a_combined_measure_is_the_measure_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(3, (150,), generator=generator)
    logits = 2 * torch.randn(150, 3, generator=generator, dtype=torch.float64)
    (found,) = changes(
        [
            OnExamples(
                "ECE", gaps(logits, y), gaps(3 * logits, y), -1,
                combine=lambda means: means.abs().sum(1),
            )
        ]
    )  # fmt: skip
    assert found.dense == pytest.approx(calibration_of(logits, y).ece)
    assert found.compressed == pytest.approx(calibration_of(3 * logits, y).ece)
    assert found.verdict == "worse"


def test_false_claims_and_power_are_as_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal networks differ in at most about 5% of trials; a difference of `smallest` is found in
    about 80% of them."""
    monkeypatch.setattr(resamples, "RESAMPLES", 400)
    rng = np.random.default_rng(2)

    def trial(shift: float) -> Change:
        base = rng.normal(0, 1, 60)
        pair = base + rng.normal(0, 1, 60), base + shift + rng.normal(0, 1, 60)
        return changes([OnExamples("loss", *map(torch.from_numpy, pair), -1, "nats")])[0]

    smallest = (1.96 + 0.8416) * math.sqrt(2 / 60)
    assert np.mean([trial(0.0).smallest for _ in range(30)]) == pytest.approx(smallest, rel=0.05)
    assert sum(trial(0.0).shown for _ in range(200)) <= 20
    assert 130 <= sum(trial(smallest).shown for _ in range(200)) <= 182


def test_scores_are_compared_by_delong() -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(30, generator=generator) + 2, torch.randn(40, generator=generator)
    second = torch.randn(30, generator=generator), torch.randn(40, generator=generator)
    (found,) = changes([OnScores("found", first, second, 1)])
    test = paired_auroc(first, second)
    assert (found.n, found.p, found.ci95) == (70, test.p, test.interval)
    assert found.difference == pytest.approx(test.difference)
    assert found.verdict == "worse"


def test_where_nearly_all_examples_change_alike_the_interval_is_exact() -> None:
    """Of 32 secrets all 32 are lost: resamples would all say −100 points exactly."""
    for lost in (32, 25):
        after = (torch.arange(32) >= lost).double()
        (found,) = changes([OnExamples("said", torch.ones(32), after, -1)])
        assert found.ci95 == exact_difference(0, lost, 32)
        assert found.ci95[1] - found.ci95[0] > 0.2
    mixed = torch.arange(40) % 2 == 0  # 20 won and 20 lost
    (found,) = changes([OnExamples("said", mixed.double(), (~mixed).double(), 1)])
    assert found.ci95 == paired_bootstrap(20, 20, 40)


def test_so_few_examples_show_nothing_and_promise_nothing() -> None:
    """Five examples that all get worse have p = 2^(1 − 5) in an exact test of pairs, above 5%."""
    high, low = torch.tensor([5.0, 6.0, 7.0, 8.0, 9.0]), torch.tensor([1.0, 1.1, 1.2, 1.3, 1.4])
    bins = torch.stack([low, low], dim=1)
    loss, sizes, share = (
        changes([one])[0]
        for one in (
            OnExamples("loss", low, high, -1, "nats"),
            OnExamples("ECE", bins / 10, bins / 5, -1, combine=lambda means: means.abs().sum(1)),
            OnExamples("accuracy", torch.ones(5), torch.zeros(5), 1),
        )
    )
    assert loss.p == pytest.approx(2**-4, abs=0.01)
    assert sizes.p == share.p == 2**-4
    for one in (loss, sizes, share):
        assert (one.verdict, one.smallest, one.same) == ("no difference shown", None, False)
    # six are enough for one measure, and not for two
    six = OnExamples("accuracy", torch.ones(6), torch.zeros(6), 1)
    assert changes([six])[0].smallest == 1.0
    assert changes([six])[0].verdict == "worse"
    assert changes([six, six])[0].smallest is None


def test_intervals_of_few_examples_are_students() -> None:
    before, after = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2.0, 2.5, 7.0])
    (found,) = changes([OnExamples("loss", before, after, -1, "nats")])
    apart = (after - before).numpy()
    wanted = stats.t.interval(0.95, 2, loc=apart.mean(), scale=apart.std(ddof=1) / math.sqrt(3))
    assert found.ci95 == pytest.approx(wanted, rel=0.03)  # the error is of a bootstrap


def test_what_is_the_same_on_every_example_says_so() -> None:
    scores = torch.arange(30.0)
    apart, values = (scores + 100, scores), torch.rand(30)
    for one in changes(
        [OnScores("found", apart, apart, 1), OnExamples("loss", values, values, -1, "nats")]
    ):
        assert (one.difference, one.smallest, one.same) == (0.0, None, True)


def test_a_reversed_auroc_is_worst_and_never_certain() -> None:
    """All placements change by −1, so that DeLong's variance is zero."""
    for n, shown in ((2, False), (10, True)):
        up, down = torch.arange(n) + 100.0, torch.arange(float(n))
        rest = torch.arange(40.0) % 3
        found = changes(
            [
                OnExamples("loss", rest, rest + rest.flip(0) / 9, -1, "nats"),
                OnScores("found", (up, down), (down, up), 1),
            ]
        )
        assert found[0].name == "found"
        assert found[0].p == 2.0 ** (1 - 2 * n)
        assert found[0].shown is shown


def test_labels_without_a_probability_have_a_row_in_the_place_of_an_infinite_loss() -> None:
    class Excludes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = torch.cat([x, x.new_zeros(len(x), 1)], dim=1)
            return logits.masked_fill(logits < -1, -math.inf)

    x = torch.tensor([[2.0], [-2.0], [0.5], [-3.0]] * 5)
    y = torch.tensor([0, 0, 0, 1] * 5)
    found = compare_trust(Excludes(), nn.Linear(1, 2), x, y)
    rows = {one.name: one for one in found.changes}
    assert rows["labels with a probability of zero"].dense == 0.25
    assert rows["labels with a probability of zero"].compressed == 0.0
    assert "negative log-likelihood" not in rows


def test_a_network_in_half_precision_is_compared_on_every_corruption() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(6, 1, 4, 4, generator=generator).bfloat16()
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).bfloat16() for _ in range(2)]
    found = compare_trust(*nets, x, torch.arange(6, dtype=torch.int32) % 2)
    assert {"accuracy, gaussian noise", "accuracy, jpeg"} <= {one.name for one in found.changes}


def test_a_comparison_refuses_before_anything_is_measured() -> None:
    class Never(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError

    x, y = torch.zeros(4, 1, 8), torch.tensor([0, 1, 0, 1])
    for more, said in (
        ({"groups": ["a"] * 4}, "at least two groups, got a"),
        ({"groups": ["a", "b"]}, "2 groups for 4 examples"),
        ({"names": ["a"]}, "1 names for labels up to 1"),
    ):
        with pytest.raises(ValueError, match=said):
            compare_trust(Never(), Never(), x, y, **more)
    with pytest.raises(ValueError, match="at least two examples, got 1"):
        compare_trust(Never(), Never(), x[:1], y[:1])
    with pytest.raises(ValueError, match="loss needs at least two examples"):
        changes([OnExamples("loss", torch.tensor([0.5]), torch.tensor([0.7]), -1)])


def test_refusals() -> None:
    one = torch.zeros(3)
    with pytest.raises(ValueError, match="there are no measures"):
        changes([])
    with pytest.raises(ValueError, match="loss: pairs need the same examples"):
        changes([OnExamples("loss", one, torch.zeros(4), 1)])
    with pytest.raises(ValueError, match="loss is not finite"):
        changes([OnExamples("loss", one, one + math.inf, 1)])


class Mean(nn.Module):
    """The class is the sign of the mean, with a confidence that `scale` sets."""

    def __init__(self, scale: float, flipped: float = math.inf) -> None:
        super().__init__()
        self.scale, self.flipped = scale, flipped

    def forward(self, x: Tensor) -> Tensor:
        mean = self.scale * x.mean((1, 2))
        mean = torch.where(x[:, 0, 0] > self.flipped, -mean, mean)
        return torch.stack((-mean, mean), dim=1)


def test_of_a_network_that_is_only_surer_the_calibration_changes_and_no_answer() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(120) % 2
    x = torch.randn(120, 1, 40, generator=generator) + (2.0 * y[:, None, None] - 1) * 0.15
    found = compare_trust(
        Mean(4.0),
        Mean(20.0),
        x,
        y,
        attack=FGSM(ThreatModel("linf", 0.1)),
        members=(x + 0.01, y),
        outside=surrogates(x),
        groups=["a", "b", "b"] * 40,
        names=["low", "high"],
        batch_size=50,
    )
    by_name = {one.name: one for one in found.changes}
    assert found.disagreement.churn.value == 0.0
    for name in ("accuracy", "accuracy, class low", "accuracy, drift", "accuracy, attacked"):
        assert by_name[name].difference == 0.0
        assert by_name[name].verdict == "no difference shown"
    assert found.changes[0].verdict == "worse"
    sure = by_name["confidence where both are wrong"]
    assert sure.verdict == "worse"
    assert sure.n == round(120 * (1 - by_name["accuracy"].dense))
    assert by_name["calibration error (ECE), attacked"].verdict == "worse"
    assert by_name["demographic parity difference"].difference == 0.0
    # both scores keep their order, but for pairs that float32 can't tell apart
    assert by_name["outside inputs found, softmax (AUROC)"].difference == pytest.approx(0, abs=5e-4)
    assert by_name["calibration error (ECE)"].dense == pytest.approx(found.calibration[0].ece)
    assert "calibration error (ECE)" in repr(found)
    assert len(by_name) == 1 + 1 + 2 + 4 + 5 + 2 + 1 + 4 + 3


def test_who_loses_is_named() -> None:
    """The compressed network answers the other way where the first value is large; class "high"
    has large first values."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(100) % 2
    x = 0.1 * torch.randn(100, 1, 30, generator=generator) + (2.0 * y[:, None, None] - 1)
    found = compare_trust(Mean(5.0), Mean(5.0, flipped=1.0), x, y, names=["low", "high"])
    assert found.disagreement.worst_class.name == "high"
    assert found.disagreement.classes[-1].change == 0.0
    shown = [one.name for one in found.changes if one.verdict == "worse"]
    assert "accuracy, class high" in shown
    assert "accuracy, class low" not in shown
    assert found.attacked is None


def test_further_test_sets_have_a_row_each() -> None:
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(60) % 2
    x = torch.randn(60, 1, 30, generator=generator)
    others = {"AdvGLUE": (x[:40, :, :20] + 0.1, y[:40])}  # other lengths, and another number
    dense, flipped = Mean(5.0), Mean(5.0, flipped=0.0)
    found = compare_trust(dense, flipped, x, y, corruptions=(), others=others)
    (row,) = [one for one in found.changes if one.name == "accuracy, AdvGLUE"]
    right = [(net(others["AdvGLUE"][0]).argmax(1) == y[:40]).tolist() for net in (dense, flipped)]
    assert (row.n, row.dense) == (40, sum(right[0]) / 40)
    assert row.compressed == sum(right[1]) / 40 != row.dense
    assert row.p == mcnemar(*right).p
