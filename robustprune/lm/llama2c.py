"""Convert checkpoints of the program llama2.c (version 0) to the format of Hugging Face.

    python -m robustprune.lm.llama2c stories260K.bin tok512.bin stories260K

The model file begins with seven int32 (width, inner width, layers, heads, key-value heads, size of
the vocabulary, length of a sequence). Then float32 weights follow: embedding, attention norms, wq,
wk, wv, wo, inner norms, w1, w2, w3 (each of all layers), the last norm, and two tables of rotations
that are not needed. The output layer is the embedding. The tokenizer file has the length of the
longest piece, and of every piece its score (float32), its length (int32) and its bytes.

The rotary embedding of llama2.c turns neighbouring entries of a head (0, 1), (2, 3), …; that of
transformers turns entry i with entry i + size/2. The rows of wq and wk are reordered accordingly.
"""

from __future__ import annotations

import argparse
import json
import math
import struct
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from robustprune.run.files import plain_file

#: size of the largest file that is read, in bytes
LARGEST = 1 << 30
_BYTES = range(3, 259)  # ids of the pieces of single bytes
_SPECIAL = ("<unk>", "<s>", "</s>")


def convert(model: Path | str, tokenizer: Path | str, folder: Path | str) -> Path:
    """Write config.json, model.safetensors and tokenizer.json to a new folder.

    Args:
        model: a version-0 checkpoint of llama2.c whose output layer is tied to the embedding.
        tokenizer: its tokenizer file.
        folder: the new folder, which `transformers.AutoModelForCausalLM.from_pretrained` can load.

    Returns:
        The folder.

    Raises:
        FileExistsError: the folder exists already.
        ValueError: a file has the wrong format.
    """
    config, weights = _read_model(Path(model))
    pieces = _read_pieces(Path(tokenizer), config["vocab_size"])
    out = Path(folder)
    out.mkdir(parents=True)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    for name, content in (
        ("config", config),
        ("tokenizer", _tokenizer(pieces)),
        ("tokenizer_config", {
            "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "bos_token": "<s>",
            "eos_token": "</s>", "clean_up_tokenization_spaces": False,
        }),
    ):  # fmt: skip
        text = json.dumps(content, indent=1, ensure_ascii=False)
        (out / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    return out


def _bytes(path: Path) -> bytes:
    plain_file(path)
    if (size := path.stat().st_size) > LARGEST:
        raise ValueError(f"{path} has {size:,} bytes; at most {LARGEST:,} are read")
    return path.read_bytes()


def _read_model(path: Path) -> tuple[dict[str, object] | dict[str, int], dict[str, Tensor]]:
    """Return (config of transformers, weights by the names of transformers)."""
    raw = _bytes(path)
    if len(raw) < 28:
        raise ValueError(f"{path} is no checkpoint of llama2.c: it has {len(raw)} bytes")
    width, inner, layers, heads, pairs, vocabulary, length = struct.unpack("<7i", raw[:28])
    if min(width, inner, layers, heads, pairs, length) < 1 or width % heads or heads % pairs:
        raise ValueError(f"{path} is no version-0 checkpoint of llama2.c: its sizes make no Llama")
    if vocabulary < 1:
        raise ValueError(f"{path} has an output layer of its own; only tied ones are converted")
    size = width // heads
    keys = pairs * size
    shapes = {
        "embed": (vocabulary, width), "norm1": (layers, width), "wq": (layers, width, width),
        "wk": (layers, keys, width), "wv": (layers, keys, width), "wo": (layers, width, width),
        "norm2": (layers, width), "w1": (layers, inner, width), "w2": (layers, width, inner),
        "w3": (layers, inner, width), "norm": (width,), "rope": (2, length, size // 2),
    }  # fmt: skip
    if 28 + 4 * sum(map(math.prod, shapes.values())) != len(raw):
        raise ValueError(f"{path} has {len(raw):,} bytes, which is not what its sizes ask for")
    values, part, at = torch.from_numpy(np.frombuffer(raw, "<f4", offset=28).copy()), {}, 0
    for name, shape in shapes.items():
        number = math.prod(shape)
        part[name] = values[at : at + number].view(shape)
        at += number
    weights = {"model.embed_tokens.weight": part["embed"], "model.norm.weight": part["norm"]}
    names = {
        "norm1": "input_layernorm", "norm2": "post_attention_layernorm",
        "wq": "self_attn.q_proj", "wk": "self_attn.k_proj", "wv": "self_attn.v_proj",
        "wo": "self_attn.o_proj", "w1": "mlp.gate_proj", "w2": "mlp.down_proj", "w3": "mlp.up_proj",
    }  # fmt: skip
    for ours, theirs in names.items():
        for layer in range(layers):
            weight = part[ours][layer]
            if ours in ("wq", "wk"):
                weight = weight.view(-1, size // 2, 2, width).transpose(1, 2).reshape(-1, width)
            weights[f"model.layers.{layer}.{theirs}.weight"] = weight.contiguous().clone()
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": width,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": pairs, "head_dim": size, "vocab_size": vocabulary,
        "max_position_embeddings": length, "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "dtype": "float32",
        "attention_bias": False, "mlp_bias": False,
    }  # fmt: skip
    return config, {name: weight.contiguous().clone() for name, weight in weights.items()}


def _read_pieces(path: Path, number: object) -> list[tuple[str, float]]:
    """Return (piece, score) by id; the pieces of single bytes are "<0x41>" etc."""
    raw, at, pieces = _bytes(path), 4, []
    try:
        for _ in range(int(str(number))):
            score, length = struct.unpack_from("<fi", raw, at)
            if length < 0 or at + 8 + length > len(raw):
                raise ValueError("a piece goes beyond the end of the file")
            pieces.append((raw[at + 8 : at + 8 + length].decode("utf-8"), float(score)))
            at += 8 + length
    except (struct.error, ValueError) as error:
        raise ValueError(
            f"{path} is no tokenizer of llama2.c for {number} pieces: {error}"
        ) from None
    if len(pieces) <= max(_BYTES):
        raise ValueError(f"{path} has {len(pieces)} pieces; the special ones and the bytes are 259")
    for index, name in (*enumerate(_SPECIAL), *((i, f"<0x{i - 3:02X}>") for i in _BYTES)):
        pieces[index] = (name, pieces[index][1])
    return pieces


def _tokenizer(pieces: list[tuple[str, float]]) -> dict[str, object]:
    """Return the tokenizer as byte-pair encoding, with bytes for characters that have no piece.

    The neighbours that form the piece of the best score are merged, again and again.
    """
    ids = {piece: index for index, (piece, _) in reversed(list(enumerate(pieces)))}
    first = max(_BYTES) + 1
    merges = []
    for piece, score in pieces[first:]:
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if ids.get(left, 0) >= first and ids.get(right, 0) >= first:
                merges.append((-score, ids[piece], [left, right]))
    return {
        "version": "1.0",
        "added_tokens": [
            {
                "id": index, "content": name, "special": True, "normalized": False,
                "single_word": False, "lstrip": False, "rstrip": False,
            }
            for index, name in enumerate(_SPECIAL)
        ],
        "normalizer": {"type": "Prepend", "prepend": " "},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 0}},
            ],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
            "vocab": ids, "merges": [pair for _, _, pair in sorted(merges)],
        },
    }  # fmt: skip


def main() -> None:
    """Convert one model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("model", "tokenizer", "folder"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()
    print(convert(options.model, options.tokenizer, options.folder))


if __name__ == "__main__":
    main()
