"""Attacks on word embeddings of causal language models, against literal computations."""

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from attacks import PGD, ThreatModel
from robustprune.lm import Eviction, HeavyHitters, Recent, Tova, evicting, perplexity
from robustprune.lm.embedded import (
    AdversarialText,
    EmbeddedText,
    adversarial_perplexity,
    embedded,
    token_loss,
)
from robustprune.minmax import OptimizerSpec, train
from robustprune.packing import words


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 20, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
    }  # fmt: skip
    model = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
    for weight in model.parameters():
        weight.data *= 4 if weight.ndim == 2 else 1
    return model


def rows(number: int = 6, length: int = 9) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 20, (number, length), generator=generator)
    ids[:, 0] = 1
    return ids


def attack(eps: float, **options: object) -> PGD:
    threat = ThreatModel("l2", eps, support=words)
    return PGD(threat, loss=token_loss, seed=0, **{"steps": 10, **options})


def test_without_displacement_it_is_the_loss_of_the_windows(model: nn.Module) -> None:
    text = EmbeddedText(model)
    found = text(embedded(rows(), text.width))
    assert torch.allclose(found[:, 0].double(), perplexity(model, rows()).losses, atol=1e-6)
    assert (found[:, 1] == -1).all()
    assert adversarial_perplexity(model, rows(), attack(0.0)).value == pytest.approx(
        perplexity(model, rows()).value
    )


@pytest.mark.parametrize("rule", [Recent(9, sinks=0), HeavyHitters(4, 5)])
def test_with_a_cache_that_holds_all_nothing_changes(model: nn.Module, rule: Eviction) -> None:
    plain = EmbeddedText(model)
    x = embedded(rows(), plain.width)
    x[..., : plain.width] += 0.1 * torch.randn(6, 9, plain.width)
    x.requires_grad_()
    with evicting(model, rule) as new_cache:
        cut = EmbeddedText(model, new_cache)
        (found,) = torch.autograd.grad(cut(x)[:, 0].sum(), x)
        torch.testing.assert_close(cut(x), plain(x), atol=1e-5, rtol=1e-5)
        (wanted,) = torch.autograd.grad(plain(x)[:, 0].sum(), x)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rule", [Recent(3, sinks=1), HeavyHitters(2, 2), Tova(3)])
def test_the_gradient_with_a_cut_cache_is_that_of_differences(
    model: nn.Module, rule: Eviction
) -> None:
    model, plain = copy.deepcopy(model).double(), EmbeddedText(model)
    x = embedded(rows(2), plain.width).double().requires_grad_()
    direction = torch.zeros_like(x)
    direction[..., : plain.width] = torch.randn(2, 9, plain.width, dtype=torch.float64)
    with evicting(model, rule) as new_cache:
        text = EmbeddedText(model, new_cache)
        (gradient,) = torch.autograd.grad(text(x)[:, 0].sum(), x)
        step = 3e-3  # the loss itself is computed in float32
        with torch.no_grad():
            up, down = (text(x + sign * step * direction)[:, 0].sum() for sign in (1, -1))
    wanted = float((up - down) / (2 * step))
    assert float((gradient * direction).sum()) == pytest.approx(wanted, rel=5e-3)


@pytest.mark.parametrize("shape", [(0, 8), (3, 1), (8,)])
def test_windows_without_a_token_to_predict_are_refused(
    model: nn.Module, shape: tuple[int, ...]
) -> None:
    windows = torch.zeros(shape, dtype=torch.long)
    with pytest.raises(ValueError, match=r"windows must be \(N, T\) with N at least 1"):
        adversarial_perplexity(model, windows, attack(0.0))


def test_the_attack_looks_at_the_cut_cache(model: nn.Module) -> None:
    with evicting(model, Recent(3, sinks=1)) as new_cache:
        clean = adversarial_perplexity(model, rows(), attack(0.0), cache=new_cache)
        found = adversarial_perplexity(model, rows(), attack(0.5), cache=new_cache)
        text = EmbeddedText(model, new_cache)
        x = embedded(rows(), text.width)
        moved = attack(0.5)(EmbeddedText(model), x, torch.zeros(6, dtype=torch.long))
        transferred = text(moved)[:, 0].mean()  # made for the whole cache
    assert abs(clean.value / perplexity(model, rows()).value - 1) > 1e-3  # another function
    assert bool((found.losses >= clean.losses).all())
    assert found.losses.mean() > transferred


def test_the_attack_stays_in_its_ball_and_leaves_the_first_token(model: nn.Module) -> None:
    text = EmbeddedText(model)
    x = embedded(rows(), text.width, bos=1)
    moved = attack(0.3)(text, x, torch.zeros(len(x), dtype=torch.long))
    delta = (moved - x)[..., : text.width]
    assert torch.equal(moved[..., text.width :], x[..., text.width :])
    assert bool((delta[:, 0] == 0).all())
    length = delta.flatten(1).norm(dim=1)
    assert bool((length <= 0.3 * (1 + 1e-5)).all())
    assert bool((length > 0.1).all())
    # the gradient by the literal loss with the embeddings as its variable
    e = model.get_input_embeddings()(rows()).detach().requires_grad_()
    log_p = model(inputs_embeds=e).logits[:, :-1].log_softmax(-1)
    loss = -log_p.gather(-1, rows()[:, 1:, None]).mean()
    (gradient,) = torch.autograd.grad(loss, e)
    first = attack(0.3, steps=1, step_size=0.3, random_start=False)(
        text, x, torch.zeros(len(x), dtype=torch.long)
    )
    step = (first - x)[:, 1:, : text.width].flatten(1)
    along = gradient[:, 1:].flatten(1)
    assert torch.allclose(step / 0.3, along / along.norm(dim=1, keepdim=True), atol=1e-4)


def test_a_larger_ball_and_more_steps_find_a_higher_perplexity(model: nn.Module) -> None:
    clean = perplexity(model, rows())
    small, large = (adversarial_perplexity(model, rows(), attack(eps)) for eps in (0.1, 1.0))
    assert clean.value < small.value < large.value
    assert bool((small.losses >= clean.losses).all())
    again = adversarial_perplexity(model, rows(), attack(1.0, restarts=3))
    assert again.value >= large.value * 0.98
    assert small.tokens == 8


def test_training_under_attack_makes_attacks_weaker() -> None:
    sizes = {
        "vocab_size": 20, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2,
    }  # fmt: skip
    torch.manual_seed(0)
    ids = (torch.arange(9) + torch.randint(0, 18, (64, 1))) % 18 + 2
    before = EmbeddedText(LlamaForCausalLM(LlamaConfig(**sizes)))
    x = embedded(ids, before.width)
    loader = [(part, torch.zeros(len(part), dtype=torch.long)) for part in x.split(16)]
    spec = OptimizerSpec(name="adam", lr=1e-2, weight_decay=0.0)
    train(before, loader, AdversarialText(None), optimizer=spec, epochs=10, quiet=True)
    before.network.get_input_embeddings().requires_grad_(False)  # larger ones would be a way out
    found = {}
    for name, inner in (("clean", None), ("attacked", attack(0.3, steps=2))):
        text = copy.deepcopy(before)
        history = train(text, loader, AdversarialText(inner), optimizer=spec, epochs=8, quiet=True)
        assert (history[-1].robust is None) == (inner is None)
        assert perplexity(text.network, ids).value < 1.2
        found[name] = adversarial_perplexity(text.network, ids[:16], attack(0.3)).value
    assert found["attacked"] < 0.85 * found["clean"]


def test_what_does_not_fit_is_told(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="inputs_embeds"):
        EmbeddedText(nn.Linear(3, 3))
    with pytest.raises(ValueError, match="EmbeddedText"):
        AdversarialText(None)(model, embedded(rows(), 16), torch.zeros(6).long(), 0.0)
    with pytest.raises(ValueError, match="warmup"):
        AdversarialText(None, warmup=-1.0)
