"""Converted checkpoints of llama2.c: against a literal forward pass and literal merging."""

import itertools
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustprune.lm import convert
from robustprune.lm.llama2c import _read_pieces

transformers = pytest.importorskip("transformers")
PACKAGED = Path(__file__).parents[2] / "robustprune" / "data" / "lm" / "stories260K"
WIDTH, INNER, LAYERS, HEADS, PAIRS, VOCABULARY, LENGTH = 16, 20, 2, 4, 2, 300, 12


def write_model(path: Path, *, vocabulary: int = VOCABULARY) -> dict[str, np.ndarray]:
    """A random checkpoint, and its weights in the order of the file."""
    rng = np.random.default_rng(0)
    size, keys = WIDTH // HEADS, WIDTH // HEADS * PAIRS
    shapes = {
        "embed": (VOCABULARY, WIDTH), "norm1": (LAYERS, WIDTH), "wq": (LAYERS, WIDTH, WIDTH),
        "wk": (LAYERS, keys, WIDTH), "wv": (LAYERS, keys, WIDTH), "wo": (LAYERS, WIDTH, WIDTH),
        "norm2": (LAYERS, WIDTH), "w1": (LAYERS, INNER, WIDTH), "w2": (LAYERS, WIDTH, INNER),
        "w3": (LAYERS, INNER, WIDTH), "norm": (WIDTH,), "rope": (2, LENGTH, size // 2),
    }  # fmt: skip
    weights = {n: rng.normal(0, 0.5, s).astype("<f4") for n, s in shapes.items()}
    head = struct.pack("<7i", WIDTH, INNER, LAYERS, HEADS, PAIRS, vocabulary, LENGTH)
    path.write_bytes(head + b"".join(w.tobytes() for w in weights.values()))
    return weights


def write_tokenizer(path: Path) -> list[tuple[bytes, float]]:
    words = [b" ", b"a", b"b", b"c", b"ab", b"bc", b" a", b" ab", b"abc", b"ca", b"cab", b" abc"]
    pieces = [(b"<unk>", 0.0), (b"\n<s>\n", 0.0), (b"\n</s>\n", 0.0)]
    pieces += [(f"<0x{i:02X}>".encode(), 0.0) for i in range(256)]
    pieces += [(word, -float(i)) for i, word in enumerate(words)]
    pieces += [(f"w{i}".encode(), -100.0 - i) for i in range(VOCABULARY - len(pieces))]
    parts = [struct.pack("<i", max(len(p) for p, _ in pieces))]
    parts += [struct.pack("<fi", score, len(p)) + p for p, score in pieces]
    path.write_bytes(b"".join(parts))
    return pieces


def literal_logits(w: dict[str, np.ndarray], tokens: list[int]) -> np.ndarray:
    """llama2.c's forward pass, position by position, rotating neighbouring entries."""
    size, shared = WIDTH // HEADS, HEADS // PAIRS

    def norm(x: np.ndarray, g: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x * x).mean() + 1e-5) * g

    def rotate(x: np.ndarray, position: int) -> np.ndarray:
        out = x.copy()
        for i in range(0, len(x), 2):
            angle = position * 10000.0 ** (-(i % size) / size)
            c, s = np.cos(angle), np.sin(angle)
            out[i], out[i + 1] = x[i] * c - x[i + 1] * s, x[i] * s + x[i + 1] * c
        return out

    keys: list[list[np.ndarray]] = [[] for _ in range(LAYERS)]
    values: list[list[np.ndarray]] = [[] for _ in range(LAYERS)]
    logits = []
    for position, token in enumerate(tokens):
        x = w["embed"][token].astype(float)
        for n in range(LAYERS):
            h = norm(x, w["norm1"][n])
            q = rotate(w["wq"][n] @ h, position)
            keys[n].append(rotate(w["wk"][n] @ h, position))
            values[n].append(w["wv"][n] @ h)
            heads = []
            for head in range(HEADS):
                at = slice(head // shared * size, (head // shared + 1) * size)
                own = q[head * size : (head + 1) * size]
                score = np.array([own @ k[at] for k in keys[n]]) / np.sqrt(size)
                share = np.exp(score - score.max())
                share /= share.sum()
                heads.append(sum(a * v[at] for a, v in zip(share, values[n], strict=True)))
            x = x + w["wo"][n] @ np.concatenate(heads)
            h = norm(x, w["norm2"][n])
            gate = w["w1"][n] @ h
            x = x + w["w2"][n] @ (gate / (1 + np.exp(-gate)) * (w["w3"][n] @ h))
        logits.append(w["embed"] @ norm(x, w["norm"]))
    return np.stack(logits)


def literal_merges(pieces: list[tuple[bytes, float]], text: str) -> list[int]:
    """llama2.c's encode: single characters, then the best pair, again and again."""
    ids = {piece: i for i, (piece, _) in reversed(list(enumerate(pieces)))}
    tokens = []
    for character in " " + text if text else "":
        raw = character.encode()
        tokens += [ids[raw]] if raw in ids else [byte + 3 for byte in raw]
    while True:
        pairs = [
            (pieces[ids[joined]][1], -i, ids[joined])
            for i, (a, b) in enumerate(itertools.pairwise(tokens))
            if (joined := pieces[a][0] + pieces[b][0]) in ids
        ]
        if not pairs:
            return tokens
        _, at, piece = max(pairs)
        tokens[-at : -at + 2] = [piece]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, list]:
    folder = tmp_path_factory.mktemp("llama2c")
    weights = write_model(folder / "model.bin")
    pieces = write_tokenizer(folder / "tok.bin")
    return convert(folder / "model.bin", folder / "tok.bin", folder / "hf"), weights, pieces


def test_the_converted_model_answers_as_a_literal_forward_pass(converted) -> None:
    folder, weights, _ = converted
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokens = [1, 7, 261, 299, 3, 259, 40, 41]
    with torch.no_grad():
        found = model(torch.tensor([tokens])).logits[0].numpy()
    np.testing.assert_allclose(found, literal_logits(weights, tokens), rtol=1e-4, atol=1e-4)


@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet="abc é", max_size=12))
def test_the_tokenizer_merges_as_the_literal_algorithm(converted, text: str) -> None:
    folder, _, pieces = converted
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer(text, add_special_tokens=False).input_ids == literal_merges(pieces, text)
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_the_packaged_model_knows_its_sentence() -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(PACKAGED)
    sentence = "Once upon a time, there was a little girl named Lily."
    ids = [1, 403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426]
    assert tokenizer(sentence).input_ids == ids
    model = transformers.AutoModelForCausalLM.from_pretrained(PACKAGED)
    assert sum(p.numel() for p in model.parameters()) == 260_032
    said = tokenizer.decode(
        model.generate(torch.tensor([[1]]), max_new_tokens=24, do_sample=False)[0]
    )
    assert said.removeprefix("<s> ").startswith(sentence + " She loved to play")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw[:20], "it has 20 bytes"),
        (lambda raw: raw[:-4], "not what its sizes ask for"),
        # sizes whose products are 0 modulo 2⁶⁴, or negative
        (lambda raw: struct.pack("<7i", 2**30, 2**30 - 1, 16, 1, 1, 8, 7), "not what its sizes"),
        (lambda raw: struct.pack("<7i", 16, 20, 2, 3, 2, 300, 12) + raw[28:], "make no Llama"),
        (lambda raw: struct.pack("<7i", 16, 20, 2, 4, 2, -300, 12) + raw[28:], "layer of its own"),
    ],
)
def test_a_model_that_is_none_is_refused(tmp_path: Path, change, said: str) -> None:
    write_model(tmp_path / "model.bin")
    write_tokenizer(tmp_path / "tok.bin")
    (tmp_path / "model.bin").write_bytes(change((tmp_path / "model.bin").read_bytes()))
    with pytest.raises(ValueError, match=said):
        convert(tmp_path / "model.bin", tmp_path / "tok.bin", tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_a_tokenizer_that_is_cut_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "model.bin")
    write_tokenizer(tmp_path / "tok.bin")
    (tmp_path / "tok.bin").write_bytes((tmp_path / "tok.bin").read_bytes()[:500])
    with pytest.raises(ValueError, match="no tokenizer of llama2"):
        convert(tmp_path / "model.bin", tmp_path / "tok.bin", tmp_path / "hf")


def test_a_vocabulary_without_the_bytes_is_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tok.bin")
    with pytest.raises(ValueError, match="has 20 pieces"):
        _read_pieces(tmp_path / "tok.bin", 20)
