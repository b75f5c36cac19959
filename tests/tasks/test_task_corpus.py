"""Running text for language models: exactly what the files hold, and one line for what is wrong."""

import json
import sys
import types
from pathlib import Path

import pyarrow
import pytest
from pyarrow import ipc, parquet

from robustprune.tasks import read_own
from robustprune.tasks.corpus import corpus_names, load_corpus
from robustprune.tasks.corpus_files import read_document

DOCUMENTS = ["One.\r\nTwo\n", "Drei — vier", " five "]
TEXT = "\n\n".join(DOCUMENTS)


def write(folder: Path, kind: str, documents: list[str] = DOCUMENTS, name: str = "train") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}{kind}"
    table = pyarrow.table({"story": documents, "n": list(range(len(documents)))})
    if kind == ".txt":
        path.write_bytes("\n\n".join(documents).encode())
    elif kind == ".jsonl":
        path.write_text("".join(json.dumps({"story": d}) + "\n" for d in documents) + "\n")
    elif kind == ".parquet":
        parquet.write_table(table, path)
    else:
        with pyarrow.OSFile(str(path), "wb") as file, ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    return path


@pytest.mark.parametrize("kind", [".txt", ".jsonl", ".parquet", ".arrow"])
def test_every_kind_of_file_gives_the_same_text(tmp_path: Path, kind: str) -> None:
    assert read_document(write(tmp_path, kind), field="story") == TEXT


def test_the_packaged_stories_are_divided_by_characters() -> None:
    corpus = load_corpus("stories")
    n = 942_640
    assert (len(corpus.train), len(corpus.test)) == (int(0.6 * n), n - int(0.8 * n))
    assert corpus.train.startswith("One day, a little girl named Lily found a needle")


def test_a_file_is_divided_and_a_folder_has_its_parts(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text("0123456789")
    corpus = load_corpus("corpus", path=file)
    assert (corpus.train, corpus.test) == ("012345", "89")
    folder = tmp_path / "set"
    write(folder / "train", ".arrow", ["a"], "data-00000-of-00002")
    write(folder / "train", ".arrow", ["b"], "data-00001-of-00002")
    (folder / "train" / "state.json").write_text("{}")
    write(folder, ".jsonl", ["c"], "validation")
    corpus = load_corpus("corpus", path=folder, field="story")
    assert (corpus.train, corpus.test) == ("a\n\nb", "c")
    write(folder, ".parquet", ["d"], "test")
    assert load_corpus("corpus", path=folder, field="story").test == "d"


def test_sets_of_the_data_folder(tmp_path: Path) -> None:
    write(tmp_path / "TinyStories", ".txt", ["0123456789"], "tiny_stories")
    assert load_corpus("tinystories", data_dir=tmp_path).test == "89"
    write(tmp_path / "WikiText-2", ".txt", ["held out"], "valid")
    write(tmp_path / "WikiText-2", ".txt", ["the test"], "test")
    corpus = load_corpus("wikitext2", data_dir=tmp_path)
    assert (corpus.train, corpus.test) == ("held out", "the test")
    assert corpus.source.endswith("calibrated on valid.txt")
    write(tmp_path / "WikiText-2", ".txt", ["to train"], "train")
    assert load_corpus("wikitext2", data_dir=tmp_path).train == "to train"


def test_missing_sets_are_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, asked = tmp_path / "hub", []
    table = pyarrow.table({"text": [" = One = \n", "", " two\n"]})

    def download(repository: str, remote: str, *, repo_type: str) -> str:
        asked.append((repository, remote, repo_type))
        hub.mkdir(exist_ok=True)
        if remote.endswith(".parquet"):
            parquet.write_table(table, hub / "part.parquet")
            return str(hub / "part.parquet")
        (hub / remote).write_bytes(b"0123456789")
        return str(hub / remote)

    library = types.SimpleNamespace(hf_hub_download=download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", library)
    data = tmp_path / "data"
    data.mkdir()
    for _ in range(2):
        assert load_corpus("wikitext2", data_dir=data).test == " = One = \n two\n"
        assert load_corpus("tinystories", data_dir=data).train == "012345"
    assert [remote for _, remote, _ in asked] == [
        "wikitext-2-v1/train-00000-of-00001.parquet",
        "wikitext-2-v1/test-00000-of-00001.parquet",
        "TinyStories-valid.txt",
    ]
    assert {kind for *_, kind in asked} == {"dataset"}
    with pytest.raises(FileNotFoundError, match="download is off"):
        load_corpus("tinystories", data_dir=hub, download=False)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"   \n", "has no text"),
        ("a.txt", b"ab\xff", "not UTF-8 at byte 2"),
        ("a.csv", b"x", "suffix .csv; give a text"),
        ("a.jsonl", b'{"text": "x"}\n{"txt": "y"}\n', "line 2 has no text in 'text'.*--label"),
        ("a.jsonl", b'{"text": 3}\n', "line 1 has int, not text, in 'text'"),
        ("a.jsonl", b'{"text": "x"}\n[1]\n', "line 2 is no JSON object"),
        ("a.jsonl", b'{"text": \n', "line 1 is no JSON"),
        ("a.jsonl", b"[" * 100_000, "line 1 is no JSON"),
        ("a.parquet", b"PAR1 no", "cannot be read as parquet"),
        ("a.arrow", b"\xff\xff\xff\xff\x10\x00\x00\x00", "cannot be read as an arrow stream"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said) as error:
        read_document(tmp_path / name)
    assert "\n" not in str(error.value)


def test_what_is_asked_for_must_make_sense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"unknown text 'storys' .did you mean 'stories'"):
        load_corpus("storys")
    with pytest.raises(ValueError, match="needs path"):
        load_corpus("corpus")
    with pytest.raises(ValueError, match="takes no path"):
        load_corpus("stories", path=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no train\* with text"):
        load_corpus("corpus", path=tmp_path)
    write(tmp_path, ".txt")
    with pytest.raises(FileNotFoundError, match=r"no test\* or valid\*"):
        load_corpus("corpus", path=tmp_path)
    (tmp_path / "test.txt").symlink_to(tmp_path / "train.txt")
    with pytest.raises(ValueError, match="symbolic link"):
        load_corpus("corpus", path=tmp_path)
    path = write(tmp_path, ".parquet")
    with pytest.raises(ValueError, match=r"no column 'storys' .did you mean 'story'"):
        read_document(path, field="storys")
    with pytest.raises(ValueError, match="values that are no text"):
        read_document(path, field="n")
    monkeypatch.setenv("ROBUSTPRUNE_MAX_GB", "1e-9")
    for kind in (".txt", ".jsonl", ".parquet", ".arrow"):
        with pytest.raises(ValueError, match="more than the limit"):
            read_document(write(tmp_path, kind), field="story")
    assert corpus_names() == ["corpus", "stories", "tinystories", "wikitext2"]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    for name, content in (("a.txt", "one\r\n"), ("a.jsonl", '{"text": "one\\r\\n"}\r\n')):
        (tmp_path / name).write_bytes(content.encode("utf-8-sig"))
        assert read_document(tmp_path / name) == "one\r\n"


def test_a_text_that_is_repeated_takes_its_memory_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pyarrow.table({"text": ["a" * 100_000] * 400, "x": [0.0] * 400})
    parquet.write_table(table, tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 10_000
    monkeypatch.setenv("ROBUSTPRUNE_MAX_GB", "0.02")
    with pytest.raises(ValueError, match=r"texts in column 'text' would take 0\.03725 GiB"):
        read_document(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"labels in column 'text' would take 0\.03725 GiB"):
        read_own("parquet", tmp_path / "a.parquet", label="text")
    monkeypatch.setenv("ROBUSTPRUNE_MAX_GB", "0.05")
    assert len(read_document(tmp_path / "a.parquet")) == 400 * 100_002 - 2


def test_two_columns_of_text_are_refused(tmp_path: Path) -> None:
    table = pyarrow.table([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet has 2 columns 'text'; rename one"):
        read_document(tmp_path / "a.parquet")
