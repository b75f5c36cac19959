"""Heads and neurons taken out: the same answers from a smaller network, saved and loaded."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from robustprune.deploy.language import (
    language_sizes,
    load_slim_language,
    save_slim_language,
    slim_language,
)
from robustprune.models import EmbeddingClassifier
from robustprune.run.checkpoint import load_tensors, save_tensors
from robustprune.sparsity import MaskSet, apply_masks, bake, draw_masks, gate_groups
from robustprune.tasks import Split

MakeModel = Callable[..., EmbeddingClassifier]


def distilbert() -> EmbeddingClassifier:
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=50, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=16
    )
    return EmbeddingClassifier(DistilBertForSequenceClassification(config))


def masked(model: EmbeddingClassifier, granularity: str, density: float) -> MaskSet:
    groups = gate_groups(model, granularity)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    scores = {n: torch.randn(g.shape, generator=generator) for n, g in groups.items()}
    masks = draw_masks(scores, groups, density)
    apply_masks(model, masks)
    return masks


def with_biases(model: EmbeddingClassifier) -> EmbeddingClassifier:
    """Biases away from zero: what is left of a masked head must not depend on them."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


@pytest.mark.parametrize(("granularity", "density"), [("head", 0.6), ("neuron", 0.3)])
@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_the_answers_stay(
    make_model: MakeModel, split: Split, granularity: str, density: float, family: str
) -> None:
    model = with_biases(make_model() if family == "bert" else distilbert()).eval()
    masked(model, granularity, density)
    bake(model)
    x, _ = split.batch(slice(None))
    small = slim_language(model)
    torch.testing.assert_close(small(x), model(x), rtol=1e-4, atol=1e-5)
    before, after = language_sizes(model), language_sizes(small)
    index = 0 if granularity == "head" else 1
    assert sum(s[index] for s in after) == {"head": 5, "neuron": 39}[granularity]
    assert [s[1 - index] for s in after] == [s[1 - index] for s in before]
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())


def test_a_dead_layer_keeps_one_head_and_one_neuron(make_model: MakeModel, split: Split) -> None:
    model = with_biases(make_model()).eval()
    masks = masked(model, "layer", 0.5)
    bake(model)
    small = slim_language(model)
    x, _ = split.batch(slice(None))
    torch.testing.assert_close(small(x), model(x), rtol=1e-4, atol=1e-5)
    assert sorted(language_sizes(small)) == [(1, 1), (4, 64)]
    assert masks.density == 0.5


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_saved_and_loaded_again(
    make_model: MakeModel, split: Split, tmp_path: Path, family: str
) -> None:
    model = make_model() if family == "bert" else distilbert()
    model.eval()
    masked(model, "head", 0.5)
    bake(model)
    small = slim_language(model)
    path = tmp_path / "slim.safetensors"
    save_slim_language(path, small)
    again = load_slim_language(path, EmbeddingClassifier)
    x, _ = split.batch(slice(None))
    assert torch.equal(again(x), small(x))
    assert language_sizes(again) == language_sizes(small)
    out = again(x.requires_grad_())  # it can be attacked and trained on
    out.sum().backward()


def test_refusals(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model()
    masked(model, "head", 0.5)
    with pytest.raises(ValueError, match="bake them in first"):
        slim_language(model)
    with pytest.raises(ValueError, match="no layers like those of BERT"):
        slim_language(torch.nn.Linear(2, 2))
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="damaged"):
        load_slim_language(tmp_path / "bad.safetensors", EmbeddingClassifier)


@pytest.mark.parametrize(
    ("config", "sizes", "message"),
    [
        ({"vocab_size": 10**9}, None, "more than the limit of 1 GiB"),
        ({"num_labels": 10**12}, None, None),
        ({}, (10**12, 1), "heads and neurons of"),
        ({}, (1, 0), "heads and neurons of"),
        ({}, (1,), "not enough values"),
    ],
)
def test_a_file_that_asks_for_more_than_it_holds(
    make_model: MakeModel,
    tmp_path: Path,
    config: dict[str, int],
    sizes: tuple[int, ...] | None,
    message: str | None,
) -> None:
    path = tmp_path / "slim.safetensors"
    save_slim_language(path, make_model())
    tensors, meta = load_tensors(path)
    meta["config"] |= config
    if sizes is not None:
        meta["sizes"][0] = sizes
    save_tensors(path, tensors, meta)
    if message is None:
        load_slim_language(path, EmbeddingClassifier)
    else:
        with pytest.raises(ValueError, match=message):
            load_slim_language(path, EmbeddingClassifier)
