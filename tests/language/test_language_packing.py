"""Packed sentences: what the model sees, and what the adversary may touch."""

import pytest
import torch
from torch import Tensor

from attacks import APGD, DDN, FGSM, FMN, PGD, ThreatModel, minimal_perturbation
from robustprune.certify import certify
from robustprune.minmax import Gaussian
from robustprune.models import EmbeddingClassifier
from robustprune.packing import pack_tokens, unpack_tokens, with_room, words
from robustprune.run.fingerprint import described
from robustprune.tasks import Split

THREAT = ThreatModel("l2", 0.5, support=words)


def plain(model: EmbeddingClassifier, codes: Tensor) -> Tensor:
    """What the network itself answers to token ids."""
    tokens = unpack_tokens(codes)
    network = model.network
    return network(input_ids=tokens.ids, attention_mask=tokens.attended.long()).logits


def test_without_a_perturbation_it_is_the_network_itself(make_model, split: Split) -> None:
    model = make_model().eval()
    x, _ = split.batch(slice(None))
    torch.testing.assert_close(model(x), plain(model, split.x))
    torch.testing.assert_close(model(split.x), plain(model, split.x))  # no room for δ needed


def test_delta_adds_to_the_word_embedding(make_model, split: Split) -> None:
    model = make_model().eval()
    x, _ = split.batch(slice(4))
    other = x.clone()
    other[:, 1, -3] = 45.0  # the id of the first word
    swapped = x.clone()
    swapped[:, 1, :-3] = model.table.weight[45] - model.table(x[:, 1, -3].long())
    torch.testing.assert_close(model(swapped), model(other))


def test_padding_changes_nothing(make_model, split: Split) -> None:
    model = make_model().eval()
    x, _ = split.batch(slice(None))
    alone = torch.cat([model(split.batch(slice(i, i + 1))[0]) for i in range(len(x))])
    torch.testing.assert_close(model(x), alone)
    wider = torch.nn.functional.pad(x, (0, 0, 0, 5))
    assert torch.equal(model(wider), model(x))


@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
@pytest.mark.parametrize("make", [FGSM, PGD, APGD])
def test_attacks_touch_words_alone(make_model, split: Split, norm: str, make) -> None:
    model, threat = make_model().eval(), ThreatModel(norm, 0.5, support=words)
    x, _ = split.batch(slice(None))
    y = model(x).argmax(1)  # APGD leaves alone what is wrong already
    x_adv = make(threat)(model, x, y)
    moved = x_adv - x
    assert bool((moved[~words(x).expand_as(x)] == 0).all())
    assert bool((threat.distance(x, x_adv) <= 0.5).all())
    tokens = unpack_tokens(x_adv)
    assert bool((tokens.delta[~tokens.words] == 0).all())
    assert float(moved[:, :, :-3].flatten(1).abs().sum(1).min()) > 0


def test_l2_is_the_frobenius_norm_of_a_sentence(make_model, split: Split) -> None:
    """One normalised step from δ = 0 of length η < ε: δ = η g/‖g‖_F over the words."""
    model = make_model()
    x, y = split.batch(slice(None))
    attack = PGD(THREAT, steps=1, step_size=0.2, random_start=False)
    delta = unpack_tokens(attack(model, x, y)).delta
    torch.testing.assert_close(
        torch.linalg.matrix_norm(delta), torch.full((len(x),), 0.2), rtol=1e-4, atol=0
    )
    given = x.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(model.eval()(given), y, reduction="sum")
    (grad,) = torch.autograd.grad(loss, given)
    grad = torch.where(words(x), grad, 0.0)[:, :, :-3]
    torch.testing.assert_close(
        delta, 0.2 * grad / torch.linalg.matrix_norm(grad)[:, None, None], rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("attack", [DDN(support=words), FMN("l2", support=words)])
def test_nearest_adversarial_examples(make_model, split: Split, attack) -> None:
    model = make_model().eval()
    x, _ = split.batch(slice(8))
    y = model(x).argmax(1)
    found = minimal_perturbation(model, x, y, norm="l2", attacks=[attack])
    tokens = unpack_tokens(found.x_adv)
    assert bool((tokens.delta[~tokens.words] == 0).all())
    reached = found.r.isfinite()
    assert bool(reached.any())
    torch.testing.assert_close(
        torch.linalg.matrix_norm(tokens.delta)[reached], found.r[reached], rtol=1e-4, atol=1e-6
    )
    assert bool((model(found.x_adv).argmax(1) != y)[reached].all())


def test_the_description_of_an_attack_is_the_same_in_every_process() -> None:
    assert "support=words" in repr(PGD(THREAT))


def test_gradients_reach_the_word_embeddings(make_model, split: Split) -> None:
    model = make_model()
    x, _ = split.batch(slice(None))
    model(x).sum().backward()
    assert float(model.table.weight.grad.abs().sum()) > 0


def test_checkpointing_gives_the_same_gradients(make_model, split: Split) -> None:
    x, _ = split.batch(slice(None))
    grads = []
    for checkpointing in (False, True):
        model = make_model(checkpointing=checkpointing).train()
        torch.manual_seed(1)  # of dropout
        model(x).square().sum().backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


def test_what_it_refuses(make_model, split: Split) -> None:
    model = make_model()
    x, _ = split.batch(slice(2))
    with pytest.raises(ValueError, match="does not hold token ids; pass it as float32"):
        model(x.bfloat16())
    with pytest.raises(ValueError, match="word embeddings have 32"):
        model(with_room(split.x, 16))
    with pytest.raises(ValueError, match=r"shape \(N, T, D \+ 3\)"):
        model(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="takes no inputs_embeds"):
        EmbeddingClassifier(torch.nn.Linear(3, 2))
    ids = torch.full((1, 2), 2**24)
    with pytest.raises(ValueError, match="token ids must lie"):
        pack_tokens(ids, ids * 0, ids, ids)


def test_minimal_perturbation_of_sentences(make_model, split: Split) -> None:
    """The default attacks keep to the words, and what they find is misclassified as one batch."""
    model = make_model().eval()
    x, _ = split.batch(slice(4))
    y = model(x).argmax(1)
    found = minimal_perturbation(model, x, y, norm="l2", support=words)
    tokens = unpack_tokens(found.x_adv)
    assert bool((tokens.delta[~tokens.words] == 0).all())
    assert bool(found.r.isfinite().any())


def test_smoothing_puts_noise_on_words_alone(make_model, split: Split) -> None:
    seen = []
    model = make_model().eval()

    def watching(x: Tensor) -> Tensor:
        seen.append(x)
        return model(x)

    x, y = split.batch(slice(3))
    result = certify(watching, x, sigma=0.1, n0=10, n=100, alpha=0.01, support=words)
    noisy = unpack_tokens(torch.cat(seen))
    assert bool((noisy.delta[~noisy.words] == 0).all())
    spread = float(noisy.delta[noisy.words].std())
    assert spread == pytest.approx(0.1, rel=0.05)
    assert len(result.radius) == 3
    Gaussian(0.1, words)(model, x, y, 0.0).loss.backward()  # the ids survive here too


def test_the_former_name_stands() -> None:
    """In programs, and in checkpoints, which say what their loader packs with."""
    from robustprune import packing, view

    names = (
        "CODES",
        "Tokens",
        "pack_tokens",
        "token_counts",
        "unpack_tokens",
        "with_room",
        "words",
    )
    assert all(getattr(view, name) is getattr(packing, name) for name in names)
    assert described(with_room) == "robustprune.view.with_room"
