"""Load the text of a causal language model: the packaged stories, known sets, or your own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from robustprune.run.atomic import write_atomically
from robustprune.run.suggest import did_you_mean
from robustprune.run.terminal import shown
from robustprune.tasks.corpus_files import read_document, read_folder
from robustprune.tasks.folders import data_folder
from robustprune.tasks.series_files import there
from robustprune.tasks.tables import read_table

OWN = "corpus"
#: the parts of one text: calibration is drawn from its beginning, and perplexity is measured on
#: its end. The fifth between them is nobody's, so that a choice can be made on it.
_TRAIN, _TEST = 0.6, 0.8
_STORIES = "Eldan and Li, TinyStories, 2023, arXiv 2305.07759"
_WIKITEXT = "WikiText-2; Merity et al., 2017, arXiv 1609.07843"


@dataclass(frozen=True)
class Corpus:
    """Running text in two parts.

    Attributes:
        train: the text that calibration windows are drawn from.
        test: the text on which perplexity is measured.
        source: where the text comes from.
    """

    name: str
    train: str
    test: str
    source: str


def corpus_names() -> list[str]:
    """Return the names that `load_corpus` knows."""
    return sorted(["stories", "tinystories", "wikitext2", OWN])


def load_corpus(
    name: str,
    *,
    data_dir: Path | None = None,
    path: Path | None = None,
    field: str = "text",
    download: bool = True,
) -> Corpus:
    """Load running text into memory.

    One text is divided by its number of characters n: the first int(0.6 n) are `train`, and those
    from int(0.8 n) on are `test`.

    Args:
        name: stories is packaged. tinystories is TinyStories/tiny_stories.txt (one text) in
            `data_dir`. wikitext2 is WikiText-2 there, with test.txt and train.txt, or else
            valid.txt. corpus is a file or folder of your own.
        data_dir: the folder of the data sets; the default is the environment variable
            ROBUSTPRUNE_DATA, or else ~/.cache/robustprune.
        path: only for corpus: a file, which is divided, or a folder with train and test files (see
            `corpus_files`).
        field: the field of JSON lines, or the column of a table, with the text.
        download: whether missing files of tinystories and wikitext2 are downloaded from the Hugging
            Face hub.

    Raises:
        ValueError: the name is unknown, an argument has no effect, or a file is malformed.
        FileNotFoundError: a file is missing, or a download failed.
    """
    if name not in corpus_names():
        raise ValueError(
            f"unknown text '{name}'{did_you_mean(name, corpus_names())}; use one of "
            f"{', '.join(corpus_names())}"
        )
    if (path is None) == (name == OWN):
        raise ValueError(
            "task 'corpus' needs path, the file or folder with your text; give path=..."
            if name == OWN
            else f"task '{name}' takes no path, got {path}; leave it out, or use task 'corpus'"
        )
    if name == "stories":
        file = resources.files("robustprune") / "data" / "lm" / "tiny_stories.txt"
        return _divided(name, file.read_bytes().decode("utf-8"), f"{_STORIES}, a sample")
    if path is not None:
        return _own(Path(path).expanduser(), field)
    return _KNOWN[name](data_folder(data_dir), download)


def _divided(name: str, text: str, source: str) -> Corpus:
    return Corpus(name, text[: int(_TRAIN * len(text))], text[int(_TEST * len(text)) :], source)


def _own(path: Path, field: str) -> Corpus:
    if path.is_dir():
        train, test = read_folder(path, field=field)
        return Corpus(path.name or OWN, train, test, f"your own text, {path.name}")
    text = read_document(path, field=field)
    return _divided(path.stem, text, f"your own text, {path.name}")


def _tinystories(folder: Path, download: bool) -> Corpus:
    file = folder / "TinyStories" / "tiny_stories.txt"
    if not there(file):
        _fetch("roneneldan/TinyStories", {"TinyStories-valid.txt": file}, download)
    return _divided("tinystories", read_document(file, within=folder), _STORIES)


def _wikitext2(folder: Path, download: bool) -> Corpus:
    home = folder / "WikiText-2"
    train, test = home / "train.txt", home / "test.txt"
    if not there(train) and there(home / "valid.txt"):
        train = home / "valid.txt"
    missing = {
        f"wikitext-2-v1/{file.stem}-00000-of-00001.parquet": file
        for file in (train, test)
        if not there(file)
    }
    if missing:
        _fetch("Salesforce/wikitext", missing, download)
    first, last = (read_document(file, within=folder) for file in (train, test))
    return Corpus("wikitext2", first, last, f"{_WIKITEXT}; calibrated on {train.name}")


_KNOWN: dict[str, Callable[[Path, bool], Corpus]] = {
    "tinystories": _tinystories,
    "wikitext2": _wikitext2,
}


def _fetch(repository: str, wanted: dict[str, Path], download: bool) -> None:
    """Download files of a data set on the Hugging Face hub, and keep their text in the folder.

    Args:
        wanted: the name of each file on the hub, and the text file that it becomes.

    Raises:
        FileNotFoundError: a file is missing, and could not be downloaded.
    """
    names = ", ".join(str(file) for file in wanted.values())
    try:
        if not download:
            raise FileNotFoundError("download is off")
        from huggingface_hub import hf_hub_download

        for remote, file in wanted.items():
            cached = Path(hf_hub_download(repository, remote, repo_type="dataset")).resolve()
            text = _lines_of(cached) if cached.suffix == ".parquet" else read_document(cached)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, text)
    except (ImportError, OSError, ValueError) as error:
        reason = shown(" ".join(str(error).split()), 300) or type(error).__name__
        raise FileNotFoundError(
            f"there is no {names}, and {repository} of the Hugging Face hub could not be "
            f"downloaded ({reason}); put the files there, or name another data_dir"
        ) from error


def _lines_of(path: Path) -> str:
    """Return the lines of WikiText's table, which has a row for each, with its line end."""
    rows: list[str] = read_table(path, within=None).column("text").to_pylist()
    return "".join(rows)
