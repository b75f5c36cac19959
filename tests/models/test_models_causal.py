"""Causal language models: families, what does not fit, and the figures of the packaged one."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from attacks.text import quiet_transformers
from robustprune.layerwise import prune_layerwise
from robustprune.lm import perplexity, random_windows, windows
from robustprune.models.causal import causal_source, load_causal
from robustprune.tasks.corpus import load_corpus

STORIES = Path(causal_source("stories260K"))
_SIZES: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 32,
}  # fmt: skip
_GROUPED = {**_SIZES, "num_key_value_heads": 2, "vocab_size": 512, "bos_token_id": 1}
_GPT2: dict[str, Any] = {
    "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32, "vocab_size": 512,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
BUILD = {
    "llama": lambda tied: LlamaForCausalLM(LlamaConfig(**_GROUPED, tie_word_embeddings=tied)),
    # its tokenizer has one token more, which ends a text
    "qwen2": lambda tied: Qwen2ForCausalLM(
        Qwen2Config(**{**_GROUPED, "vocab_size": 520}, tie_word_embeddings=tied)
    ),
    "mistral": lambda tied: MistralForCausalLM(
        MistralConfig(**_GROUPED, tie_word_embeddings=tied, sliding_window=None)
    ),
    "gpt2": lambda tied: GPT2LMHeadModel(GPT2Config(**_GPT2, tie_word_embeddings=tied)),
}


def saved(folder: Path, model: Any, *, tokenizer: bool = True) -> Path:
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json") if tokenizer else ():
        shutil.copy(STORIES / name, folder)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", BUILD)
def test_every_family_is_loaded_pruned_and_loaded_again(
    tmp_path: Path, family: str, tied: bool, dtype: str
) -> None:
    torch.manual_seed(0)
    folder = saved(tmp_path / "a", BUILD[family](tied).to(getattr(torch, dtype)))
    model = load_causal(str(folder))
    assert next(model.network.parameters()).dtype == getattr(torch, dtype)
    assert (model.positions, model.bos) == (32, 1)
    assert model.vocabulary == (520 if family == "qwen2" else 512)
    ids = model.tokens(load_corpus("stories").test[:2000])
    drawn = random_windows(ids, 16, 32, bos=model.bos)
    ticket = prune_layerwise(
        model.network, [{"input_ids": drawn}], density=0.5, pattern="2:4", dense=("last",),
        target="residual",
    )  # fmt: skip
    for name, mask in ticket.masks.items():
        weight = ticket.model.get_parameter(name)
        assert mask.double().mean() == 0.5
        assert not weight[~mask].any()
    again = load_causal(str(saved(tmp_path / "b", ticket.model)))
    rows = windows(ids, 16, bos=model.bos)
    before, after = (perplexity(m, rows).losses for m in (ticket.model, again.network))
    assert torch.equal(before, after)


def test_the_packaged_model_has_the_perplexity_of_the_protocol() -> None:
    model, corpus = load_causal(), load_corpus("stories")
    train, test = model.tokens(corpus.train), model.tokens(corpus.test)
    assert (len(train), len(test)) == (286_610, 96_003)
    rows = windows(test, 512, bos=model.bos)
    assert rows.shape == (187, 512)
    assert rows[0, :7].tolist() == [1, 318, 416, 417, 431, 304, 423]
    drawn = random_windows(train, 256, 128, bos=model.bos, seed=0)
    assert drawn[0, :8].tolist() == [1, 306, 261, 420, 277, 264, 265, 329]
    assert perplexity(model.network, rows).value == pytest.approx(4.8163, abs=5e-5)


def _encoders() -> dict[str, tuple[Any, str]]:
    bert = BertConfig(**_SIZES, vocab_size=512)
    t5 = T5Config(
        vocab_size=512, d_model=16, d_ff=16, d_kv=4, num_layers=1, num_heads=2,
        decoder_start_token_id=0,
    )  # fmt: skip
    return {
        "masked": (BertForMaskedLM(bert), "'.*' is an encoder: its answer for a token changes"),
        "headless": (BertModel(bert), "has no weights for cls"),
        "classifier": (
            LlamaForSequenceClassification(LlamaConfig(**_GROUPED, pad_token_id=0)),
            "has no weights for lm_head.weight",
        ),
        "translator": (T5ForConditionalGeneration(t5), "is a t5 model, which does not predict"),
    }


@pytest.mark.parametrize("name", ["masked", "headless", "classifier", "translator"])
def test_models_that_do_not_predict_the_next_token_are_refused(tmp_path: Path, name: str) -> None:
    model, said = _encoders()[name]
    folder = saved(tmp_path, model)
    with pytest.raises(ValueError, match=said) as error:
        load_causal(str(folder))
    assert "\n" not in str(error.value)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    small = LlamaForCausalLM(LlamaConfig(**{**_GROUPED, "vocab_size": 400}))
    folder = saved(tmp_path / "small", small)
    with pytest.raises(ValueError, match=r"has 512 tokens, and the model '.*' knows 400"):
        load_causal(str(folder))
    bare = saved(tmp_path / "bare", BUILD["llama"](True), tokenizer=False)
    with pytest.raises(ValueError, match="cannot load the tokenizer of"):
        load_causal(str(bare))
    model = load_causal(str(bare), tokenizer=str(STORIES))
    with pytest.raises(ValueError, match=r"causal.window=33 is more than the 32 positions"):
        model.check_window(33, "causal.window")
    with pytest.raises(ValueError, match="dtype 'int8' is not one of float32, bfloat16, float16"):
        load_causal(dtype="int8")
    with pytest.raises(FileNotFoundError, match=r"cannot load '.*none'"):
        load_causal(str(tmp_path / "none"))


def test_foreign_folders_are_not_trusted(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", BUILD["llama"](True))
    pickled = shutil.copytree(base, tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="safetensors"):
        load_causal(str(pickled))
    linked = shutil.copytree(base, tmp_path / "linked")
    (linked / "model.safetensors").unlink()
    (linked / "model.safetensors").symlink_to(base / "model.safetensors")
    with pytest.raises(ValueError, match="link to a file outside"):
        load_causal(str(linked))
    coded = shutil.copytree(base, tmp_path / "coded")
    config = json.loads((coded / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
    (coded / "config.json").write_text(json.dumps(config))
    (coded / "own.py").write_text("raise SystemExit('ran')\n")
    with pytest.raises(ValueError, match="contains custom code"):
        load_causal(str(coded))
    large = shutil.copytree(base, tmp_path / "large")
    config = json.loads((base / "config.json").read_text()) | {"num_hidden_layers": 10**6}
    (large / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"tensors of weights|more than the limit"):
        load_causal(str(large))


def test_the_client_of_the_hub_is_quiet_only_while_something_is_loaded() -> None:
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    with quiet_transformers():
        assert not logger.isEnabledFor(logging.WARNING)
    assert logger.level == before
