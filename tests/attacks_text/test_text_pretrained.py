"""Language models of a folder that nobody vouches for: nothing in it is run or unpickled."""

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="language models need the extra lm")

from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from attacks.text import description_digest, load_pretrained, local_files_only
from attacks.text.pretrained import LARGEST
from robustprune.deploy.language import load_slim_language
from robustprune.models import EmbeddingClassifier, SentenceTokenizer, language_model
from robustprune.run.checkpoint import save_tensors

CLASSIFIER = "AutoModelForSequenceClassification"
BOMB = "from pathlib import Path\nPath({marker!r}).write_text('run')\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small BERT with its tokenizer, as save_pretrained writes them."""
    path = tmp_path / "bert"
    config = BertConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, max_position_embeddings=8,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(path)
    words = tmp_path / "vocab.txt"
    words.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "."]))
    BertTokenizerFast(vocab_file=str(words)).save_pretrained(path)
    return path


def change(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def test_an_honest_folder_loads(folder: Path) -> None:
    assert language_model((7, 3), 2, weights=str(folder)).width == 8
    assert SentenceTokenizer(str(folder))(["good ."]).shape == (1, 4, 3)


@pytest.mark.parametrize("known", [True, False], ids=["known type", "own type"])
def test_code_of_a_folder_is_never_run_even_after_yes(
    folder: Path, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = folder.parent / "marker"
    (folder / "evil.py").write_text(BOMB.format(marker=str(marker)))
    classes = {
        name: f"evil.{name}" for name in ("AutoConfig", "AutoModel", CLASSIFIER, "AutoTokenizer")
    }
    change(folder / "config.json", auto_map=classes, **({} if known else {"model_type": "evil"}))
    tokenizer = {"AutoTokenizer": ["evil.Slow", "evil.Fast"]}
    change(
        folder / "tokenizer_config.json",
        auto_map=tokenizer, **({} if known else {"tokenizer_class": "Evil"}),
    )  # fmt: skip
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 20))
    for load in (
        lambda: language_model((7, 3), 2, weights=str(folder)),
        lambda: SentenceTokenizer(str(folder)),
    ):
        if known:
            load()  # by the class of transformers itself
        else:
            with pytest.raises(FileNotFoundError, match="cannot load"):
                load()
    assert not marker.exists()


def test_weights_in_a_pickle_are_refused(folder: Path) -> None:
    state = load_pretrained(CLASSIFIER, folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="safetensors"):
        language_model((7, 3), 2, weights=str(folder))


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_kernels_are_not_fetched(folder: Path, key: str) -> None:
    change(folder / "config.json", nested={key: "somebody/kernel"})
    with pytest.raises(FileNotFoundError, match="asks for the kernel 'somebody/kernel'"):
        language_model((7, 3), 2, weights=str(folder))


def test_a_slim_file_names_no_kernel_either(folder: Path, tmp_path: Path) -> None:
    config = {"model_type": "bert", "attn_implementation": "somebody/kernel"}
    file = tmp_path / "slim.safetensors"
    save_tensors(file, {"x": torch.zeros(1)}, {"format": 1, "config": config, "sizes": []})
    with pytest.raises(ValueError, match="asks for the kernel"):
        load_slim_language(file, EmbeddingClassifier)


def test_a_config_that_asks_for_more_than_the_files_hold_takes_no_memory(folder: Path) -> None:
    change(folder / "config.json", vocab_size=10**9)
    with pytest.raises(FileNotFoundError, match="more than the limit"):
        language_model((7, 3), 2, weights=str(folder))


def test_links_are_followed_within_a_cache_alone(folder: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(blobs / str(number))
        (snapshot / file.name).symlink_to(Path("..") / ".." / "blobs" / str(number))
    assert language_model((7, 3), 2, weights=str(snapshot)).width == 8
    elsewhere = tmp_path / "secret.txt"
    elsewhere.write_text("a\nb\n")
    (snapshot / "vocab.txt").unlink(missing_ok=True)
    (snapshot / "vocab.txt").symlink_to(elsewhere)
    with pytest.raises(FileNotFoundError, match="link to a file outside"):
        language_model((7, 3), 2, weights=str(snapshot))


def test_an_adapter_is_told_from_a_model(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="adapter of peft"):
        language_model((7, 3), 2, weights=str(folder))


def test_nothing_is_downloaded_where_only_local_files_are_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import transformers

    seen: list[Any] = []
    fake = classmethod(lambda cls, source, **options: seen.append(options["local_files_only"]))
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fake)
    hub(monkeypatch, {})
    load_pretrained("AutoTokenizer", "some/id")
    with local_files_only():
        load_pretrained("AutoTokenizer", "some/id")
    load_pretrained("AutoTokenizer", "some/id")
    assert seen == [False, True, False]


def hub(monkeypatch: pytest.MonkeyPatch, answer: dict[str, int] | Exception) -> list[str]:
    """Put a hub in place whose models have files of these sizes, and return what it is asked."""
    import huggingface_hub

    asked: list[str] = []

    def model_info(self: object, source: str, **options: Any) -> SimpleNamespace:
        asked.append(source)
        if isinstance(answer, Exception):
            raise answer
        files = [SimpleNamespace(rfilename=name, size=size) for name, size in answer.items()]
        return SimpleNamespace(siblings=files)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    return asked


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    seen: list[Any] = []
    fake = classmethod(lambda cls, source, **options: seen.append(options["local_files_only"]))
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fake)
    asked = hub(monkeypatch, ConnectionError("no network"))
    load_pretrained("AutoTokenizer", "some/id")
    assert (asked, seen) == (["some/id"], [True])


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt", "onnx/config.json"])
def test_a_large_file_of_the_hub_is_not_downloaded(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub(monkeypatch, {"model.safetensors": 2**40, "data.txt": 2**40, name: LARGEST + 1})
    with pytest.raises(ValueError, match=f"some/id/{name} has 134,217,729 bytes"):
        load_pretrained("AutoTokenizer", "some/id")


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "spiece.model", "vocab.txt"])
def test_a_large_file_of_a_folder_is_not_parsed(folder: Path, name: str) -> None:
    with (folder / name).open("ab") as file:
        file.truncate(2**36)  # far more than the memory holds, and nothing on the disk
    with pytest.raises(ValueError, match=f"{name} has 68,719,476,736 bytes"):
        load_pretrained("AutoTokenizer", folder)


def test_a_config_of_many_brackets_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 10**6)
    with pytest.raises(ValueError, match=r"config\.json is no JSON"):
        load_pretrained("AutoTokenizer", folder)


def test_the_digest_sees_tokens_and_structure_but_not_weights(folder: Path) -> None:
    before = description_digest(folder)
    assert before is not None
    (folder / "model.safetensors").write_bytes(b"other")
    (folder / "README.md").write_text("hello")
    assert description_digest(folder) == before
    change(folder / "tokenizer_config.json", do_lower_case=False)
    changed = description_digest(folder)
    change(folder / "config.json", hidden_act="relu")
    assert len({before, changed, description_digest(folder)}) == 3
    assert description_digest(folder.parent / "nothing") is None
