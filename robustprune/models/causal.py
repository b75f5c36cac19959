"""Load causal language models of Hugging Face's transformers, which predict the next token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

import robustprune
from attacks.modes import evaluating
from attacks.network import logits_of
from attacks.text import description_digest, load_pretrained, quiet_transformers
from robustprune.models.language import transformers_library
from robustprune.run.size import check_size
from robustprune.run.terminal import shown

#: the name of the packaged model
STORIES = "stories260K"
_AUTO = "AutoModelForCausalLM"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
#: relative difference of logits that rounding may make when later tokens change. It is 0 for the
#: families that are tested, and above 0.001 for a BERT with random weights
_ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-10}


@dataclass(frozen=True)
class CausalModel:
    """A causal language model with its tokenizer.

    Attributes:
        network: the model, in eval mode.
        tokenizer: the tokenizer of transformers.
        bos: the id of the token that begins a text. Where the tokenizer and the config name none,
            it is the end of a text, with which such models were trained to begin.
        positions: the largest number of tokens in a window, or None.
        vocabulary: the number of rows of the word embeddings.
    """

    network: nn.Module
    tokenizer: Any
    bos: int
    positions: int | None
    vocabulary: int

    def tokens(self, text: str) -> list[int]:
        """Return the ids of a text, without BOS.

        Raises:
            ValueError: more than half of the tokens are unknown ones, or an id is outside of the
                model's vocabulary, so that the tokenizer does not fit.
        """
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        unknown = self.tokenizer.unk_token_id
        if unknown is not None and unknown != self.tokenizer.eos_token_id:
            share = ids.count(unknown) / max(len(ids), 1)
            if share > 0.5:
                raise ValueError(
                    f"the tokenizer knows only {1 - share:.0%} of the text's tokens; give the "
                    "tokenizer with which the model was trained, or a text that it can read"
                )
        if ids and max(ids) >= self.vocabulary:
            raise ValueError(
                f"the tokenizer gives the id {max(ids)}, and the model knows {self.vocabulary} "
                "tokens; give the tokenizer with which the model was trained"
            )
        return ids

    def check_window(self, length: int, option: str) -> None:
        """Raise a ValueError if windows of this length have more tokens than positions."""
        if self.positions is not None and length > self.positions:
            raise ValueError(
                f"{option}={length} is more than the {self.positions} positions of the model; "
                f"give at most {self.positions}"
            )


def causal_source(weights: str) -> str:
    """Return what transformers loads `weights` from: the packaged folder, another one, or a hub
    id."""
    if weights == STORIES:
        return str(Path(robustprune.__file__).parent / "data" / "lm" / STORIES)
    folder = Path(weights).expanduser()
    return str(folder) if folder.is_dir() else weights


def load_causal(
    weights: str = STORIES, *, dtype: str | None = None, tokenizer: str | None = None
) -> CausalModel:
    """Load a causal language model and its tokenizer, without running code beside the weights.

    Llama-, Qwen-, Mistral- and GPT-2-like models are tested; every AutoModelForCausalLM whose
    logits do not depend on later tokens is taken.

    Args:
        weights: "stories260K", which is packaged; a folder with safetensors; or an id of the
            Hugging Face hub.
        dtype: "float32", "bfloat16" or "float16"; None leaves the weights as they are stored.
        tokenizer: the folder or hub id of the tokenizer, if it is not that of the weights.

    Raises:
        ValueError: the library is missing, the folder has pickled weights, code or links to files
            elsewhere, weights are missing, the model is no causal one, or the tokenizer does not
            fit.
        FileNotFoundError: the model is not on this machine and could not be downloaded.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(
            f"dtype {shown(repr(dtype))} is not one of {', '.join(DTYPES)}; leave it out to take "
            "the weights as they are stored"
        )
    transformers_library()
    source = causal_source(weights)
    with quiet_transformers():
        network = _network(source, weights, dtype)
        words = _tokenizer(causal_source(tokenizer) if tokenizer else source)
    config: Any = network.config
    text_config = config.get_text_config()
    rows = cast(nn.Embedding, cast(Any, network).get_input_embeddings()).num_embeddings
    if len(words) > rows:
        raise ValueError(
            f"the tokenizer of '{tokenizer or weights}' has {len(words)} tokens, and the model "
            f"'{weights}' knows {rows}; give the tokenizer with which it was trained"
        )
    positions = getattr(text_config, "max_position_embeddings", None)
    found = CausalModel(network, words, _bos(words, text_config, weights, rows), positions, rows)
    _check_causal(found, weights)
    return found


def stored_network(folder: Path) -> nn.Module:
    """Load the network of a folder, with its weights as they are stored, in eval mode.

    Raises:
        ValueError, FileNotFoundError: as in `load_causal`.
    """
    with quiet_transformers():
        return _network(str(folder), str(folder), None)


def causal_digest(weights: str, tokenizer: str | None = None) -> str | None:
    """Return the digest of the config and tokenizer files, see `attacks.text`."""
    return description_digest(causal_source(tokenizer or weights))


def _network(source: str, weights: str, dtype: str | None) -> nn.Module:
    options = {"dtype": DTYPES[dtype] if dtype else "auto"}
    try:
        config = load_pretrained("AutoConfig", source)
        _refuse_others(config, weights)
        if Path(source).is_dir():
            cls: Any = getattr(transformers_library(), _AUTO)
            held = sum(file.stat().st_size for file in Path(source).glob("*.safetensors"))
            check_size(
                lambda: cls.from_config(config, trust_remote_code=False), model=weights, held=held
            )
        network, report = load_pretrained(_AUTO, source, output_loading_info=True, **options)
    except (OSError, ImportError) as error:
        raise FileNotFoundError(
            f"cannot load '{weights}' ({_first_line(error)}); give a folder with a saved model in "
            f"safetensors, a hub id while online, or '{STORIES}'"
        ) from error
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"cannot load '{weights}': {_first_line(error)}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"'{weights}' has no weights for {shown(', '.join(missing), 200)}, so that they would "
            f"be random; give a model that was saved as {type(network).__name__}"
        )
    return cast(nn.Module, network.eval())


def _refuse_others(config: Any, weights: str) -> None:
    """Refuse a config of which transformers has no causal model."""
    known = transformers_library().MODEL_FOR_CAUSAL_LM_MAPPING
    if getattr(config, "is_encoder_decoder", False) or type(config) not in known:
        raise ValueError(
            f"'{weights}' is a {shown(str(config.model_type))} model, which does not predict the "
            "next token; give a causal language model, such as a Llama, Qwen, Mistral or GPT-2"
        )


def _tokenizer(source: str) -> Any:
    try:
        return load_pretrained("AutoTokenizer", source)
    except Exception as error:  # the library raises many kinds, some of its own
        raise ValueError(
            f"cannot load the tokenizer of '{source}' ({_first_line(error)}); put its "
            "tokenizer.json there, or name another with model.options.tokenizer"
        ) from error


def _bos(tokenizer: Any, config: Any, weights: str, rows: int) -> int:
    for holder, name in (
        (tokenizer, "bos_token_id"), (config, "bos_token_id"),
        (tokenizer, "eos_token_id"), (config, "eos_token_id"),
    ):  # fmt: skip
        value = getattr(holder, name, None)
        if isinstance(value, list | tuple):
            value = value[0] if value else None
        if isinstance(value, int):
            if not 0 <= value < rows:
                raise ValueError(
                    f"the token {value} that begins a text is outside of the {rows} tokens that "
                    f"'{weights}' knows; give the tokenizer with which it was trained"
                )
            return value
    raise ValueError(
        f"neither the tokenizer nor the config of '{weights}' names a token that begins or ends a "
        "text; set bos_token in its tokenizer_config.json"
    )


@torch.no_grad()
def _check_causal(model: CausalModel, weights: str) -> None:
    """Refuse a network whose logits of a token change with the tokens after it.

    It is tried, because the config of an encoder such as BERT loads as a causal model, too.
    """
    generator = torch.Generator().manual_seed(0)
    length = min(8, model.positions or 8)
    first = torch.randint(model.vocabulary, (1, length), generator=generator)
    second = first.clone()
    second[:, length // 2 :] = (second[:, length // 2 :] + 1) % model.vocabulary
    with evaluating(model.network):
        one, two = (
            logits_of(model.network, ids)[:, : length // 2].float() for ids in (first, second)
        )
    dtype = next(model.network.parameters()).dtype
    apart = (one - two).norm()
    if bool(apart > _ROUNDING.get(dtype, 1e-3) * one.norm()):
        raise ValueError(
            f"'{weights}' is an encoder: its answer for a token changes with the tokens after it; "
            "give a causal language model, such as a Llama, Qwen, Mistral or GPT-2"
        )


def _first_line(error: Exception) -> str:
    return shown(next(iter(str(error).strip().splitlines()), "") or type(error).__name__, 300)
