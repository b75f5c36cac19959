"""One label an example and one a token go through the same loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from attacks import PGD, ThreatModel
from robustprune.minmax import (
    Adversarial,
    Checkpoint,
    Natural,
    OptimizerSpec,
    StepResult,
    Validation,
    tally,
    train,
)
from robustprune.minmax.result import cross_entropy
from robustprune.search import finetune_ticket, prune_one_shot

WORDS, LENGTH = 11, 9
ADAM = OptimizerSpec(name="adam", lr=3e-2, weight_decay=0.0)
QUICK = OptimizerSpec(name="adam", lr=0.3, weight_decay=0.0)


class Causal(nn.Module):
    """One layer of attention to the left, (N, T) ids -> (N, T, words)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(WORDS, width), nn.Embedding(LENGTH, width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.head = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, WORDS))

    def forward(self, ids: Tensor) -> Tensor:
        h = self.token(ids) + self.place.weight[: ids.shape[1]]
        query, key, value = self.mix(h).chunk(3, -1)
        h = h + self.out(F.scaled_dot_product_attention(query, key, value, is_causal=True))
        return self.head(h)


def causal() -> nn.Module:
    torch.manual_seed(0)
    return Causal()


def llama() -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="Llama needs the extra lm")
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=WORDS, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=16,
        )
    )  # fmt: skip


def sequences(number: int = 48) -> list[tuple[Tensor, Tensor]]:
    """Words that go on by a step which the first two words tell: to be predicted from the third
    word on. The label of the first word, of the last one and of padding does not count."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(WORDS, (number, 1), generator=generator)
    step = torch.randint(1, 4, (number, 1), generator=generator)
    ids = (first + step * torch.arange(LENGTH)) % WORDS
    y = torch.full_like(ids, -100)
    y[:, 1:-1] = ids[:, 2:]
    y[::5, -4:] = -100
    return list(zip(ids.split(8), y.split(8), strict=True))


def classes() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(48, 6, generator=generator), torch.arange(48) % 3
    x[torch.arange(48), y] += 3
    return list(zip(x.split(8), y.split(8), strict=True))


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


@pytest.mark.parametrize(
    ("make", "loader"), [(causal, sequences()), (llama, sequences()), (classifier, classes())]
)
def test_next_tokens_and_classes_are_learned_by_the_same_call(make: Any, loader: Any) -> None:
    model = make()
    history = train(
        model, loader, Natural(), optimizer=ADAM, epochs=15, quiet=True,
        validation=Validation(loader=loader),
    )  # fmt: skip
    last, first = history[-1], history[0]
    assert first.clean is not None
    assert last.val_clean is not None
    assert last.clean is not None
    assert first.clean < 0.7
    assert last.clean > 0.9
    assert last.robust is last.val_robust is None
    # counted by hand: what is not -100, every token or example alike
    right = counted = 0
    for x, y in loader:
        with torch.no_grad():
            output = model(x)
        found = getattr(output, "logits", output).argmax(-1)
        right += int(((found == y) & (y != -100)).sum())
        counted += int((y != -100).sum())
    best = max(record.val_clean for record in history if record.val_clean is not None)
    assert right / counted == pytest.approx(best)


@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 5), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_loss_and_count_by_their_definition(seed: int, n: int, length: int, out: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, length, 4, generator=generator)
    y = torch.randint(4, (n, length), generator=generator)
    y[torch.rand(n, length, generator=generator) < out] = -100
    losses, right = [], 0
    for i in range(n):
        for t in range(length):
            if y[i, t] >= 0:
                losses.append(float(logits[i, t].logsumexp(0) - logits[i, t, y[i, t]]))
                right += int(logits[i, t].argmax() == y[i, t])
    loss = float(cross_entropy(logits, y))
    assert loss == pytest.approx(sum(losses) / max(len(losses), 1), rel=1e-5, abs=1e-6)
    assert [int(value) for value in tally(logits, y)] == [right, len(losses)]


def test_the_records_loss_is_the_mean_over_tokens() -> None:
    """Batches with fewer tokens that count weigh less in it; a batch with none weighs nothing."""
    loader = [*sequences()[:3], (sequences()[0][0], torch.full((8, LENGTH), -100))]
    model = causal()
    still = OptimizerSpec(lr=0.0, weight_decay=0.0)
    with torch.no_grad():
        logits = torch.cat([model(x) for x, _ in loader]).flatten(0, 1)
        y = torch.cat([y for _, y in loader]).flatten()
        expected = F.cross_entropy(logits, y, ignore_index=-100)
    found = train(model, loader, Natural(), optimizer=still, epochs=1, quiet=True)[-1]
    assert found.loss == pytest.approx(float(expected), rel=1e-5)


def test_a_training_on_tokens_goes_on_where_it_was_stopped(tmp_path: Any) -> None:
    spec = OptimizerSpec(lr=0.1, schedule="constant")
    options: dict[str, Any] = {"optimizer": spec, "quiet": True}
    straight, broken = causal(), causal()
    whole = train(straight, sequences(), Natural(), epochs=2, **options)
    place = Checkpoint(tmp_path / "kept", seconds=0.0)
    train(broken, sequences(), Natural(), epochs=1, checkpoint=place, **options)
    resumed = causal()
    history = train(resumed, sequences(), Natural(), epochs=2, checkpoint=place, **options)
    assert [record.loss for record in history] == [record.loss for record in whole]
    for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_pruned_language_model_is_fine_tuned_like_any_other() -> None:
    ticket = prune_one_shot(causal(), density=0.5)
    tuned = finetune_ticket(ticket, sequences(), Natural(), epochs=2, optimizer=ADAM, quiet=True)
    for name, mask in tuned.masks.items():
        assert not bool(tuned.model.get_parameter(name)[~mask].any())
    snip = prune_one_shot(causal(), sequences(), density=0.5, criterion="snip")
    assert snip.masks != ticket.masks


IDS, NEXT = sequences()[0]


@pytest.mark.parametrize(
    ("batch", "objective", "message"),
    [
        ((IDS, NEXT), Adversarial(PGD(ThreatModel("linf", 0.1))), "inputs must be floating point"),
        ((IDS, NEXT[:, :4]), Natural(), r"got \(8, 9, 11\) for labels of shape \(8, 4\)"),
        ((IDS, NEXT[:, 0]), Natural(), r"got \(8, 9, 11\) for labels of shape \(8,\)"),
        ((IDS, NEXT.int()), Natural(), r"labels must be int64 of shape \(N, T\), got torch.int32"),
        ((IDS, NEXT.abs()), Natural(), r"labels must lie in 0\.\.10 .*, got 0\.\.100"),
        ((IDS + 99, NEXT), Natural(), "does not take a batch of shape .*: index out of range"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(batch: Any, objective: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        train(causal(), [batch], objective, optimizer=ADAM, epochs=1, quiet=True)
    assert "\n" not in str(caught.value)


def test_labels_a_token_are_refused_where_inputs_move() -> None:
    model = nn.Sequential(nn.Linear(3, 4))
    batch = (torch.randn(2, 5, 3), torch.zeros(2, 5, dtype=torch.int64))
    attacked = Adversarial(PGD(ThreatModel("linf", 0.1)))
    with pytest.raises(ValueError, match="one a token, and Adversarial moves its inputs"):
        train(model, [batch], attacked, optimizer=ADAM, epochs=1, quiet=True)


def test_an_objective_may_have_labels_of_its_own() -> None:
    """Here real numbers, of which the loop knows nothing but what the objective counts."""

    class Squares:
        class_labels = False

        def __call__(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> StepResult:
            error = (model(x).squeeze(1) - y).abs()
            return StepResult((error**2).mean(), (error < 0.1).sum(), len(y))

    torch.manual_seed(0)
    x = torch.randn(32, 3)
    batches = list(zip(x.split(8), (x @ torch.tensor([1.0, -2.0, 0.5])).split(8), strict=True))
    history = train(nn.Linear(3, 1), batches, Squares(), optimizer=QUICK, epochs=40, quiet=True)
    assert history[-1].loss < 1e-3
    assert history[-1].clean == 1.0
