"""Load pre-trained language models without running code that is stored beside the weights."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from attacks.text.quiet import quiet_transformers

#: files that determine the network and the tokens of a text, without the weights
DESCRIPTIONS = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)

#: the largest size in bytes of these files and of those of these kinds, which are parsed whole; the
#: largest tokenizers of published models have about 35 MB
LARGEST = 2**27
_PARSED = (".json", ".model", ".jinja", ".tiktoken")
#: seconds in which the hub has to answer
_PATIENCE = 5.0

_LOCAL: ContextVar[bool] = ContextVar("local_files_only", default=False)


@contextmanager
def local_files_only() -> Iterator[None]:
    """Forbid downloads of language models inside the context: hub ids must be in the local
    cache."""
    token = _LOCAL.set(True)
    try:
        yield
    finally:
        _LOCAL.reset(token)


def load_pretrained(auto: str, source: str | Path, **options: Any) -> Any:
    """Call ``transformers.<auto>.from_pretrained`` for a folder or hub id that is not trusted.

    Code of the folder or of the hub is never run (``trust_remote_code=False``, without asking),
    kernels are never downloaded, and weights are read only from safetensors files, because the
    older ``.bin`` files are pickles. Files that are parsed whole, such as a tokenizer, may have
    ``LARGEST`` bytes. Where the hub does not answer, an id is looked for in the local cache.
    Progress bars are shown for an id, and only on a terminal.

    Args:
        auto: name of a class of transformers: "AutoModel", "AutoTokenizer", "AutoConfig", ….
        source: a folder, or an id of the Hugging Face hub.
        options: further arguments of ``from_pretrained``.

    Raises:
        ImportError: transformers is not installed.
        OSError: there is no such model, or (as a ValueError) the folder links to files elsewhere,
            requires code or a kernel, has its weights in a pickle, or has too large a file.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError("transformers is missing: python -m pip install transformers") from error
    local = _LOCAL.get() or not (Path(source).is_dir() or _on_hub(str(source)))
    _check(source)
    if auto.startswith("AutoModel"):
        options["use_safetensors"] = True
    cls: Any = getattr(transformers, auto)
    watched = not Path(source).is_dir() and sys.stderr.isatty()
    with quiet_transformers(bars=watched):
        return cls.from_pretrained(
            str(source), trust_remote_code=False, local_files_only=local, **options
        )


def description_digest(source: str | Path) -> str | None:
    """Return the SHA-256 of the config and tokenizer files of a folder or cached hub id, or None.

    It is None where there are no such files. Two sources with the same digest turn a sentence into
    the same tokens and build the same network.
    """
    found = {name: path for name in DESCRIPTIONS if (path := _file(source, name)) is not None}
    if not found:
        return None
    digest = hashlib.sha256()
    for name, path in sorted(found.items()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()


def _file(source: str | Path, name: str) -> Path | None:
    folder = Path(source)
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    try:
        cached = try_to_load_from_cache(str(source), name)
    except ValueError:  # neither a folder nor an id; loading raises the error
        return None
    return Path(cached) if isinstance(cached, str) else None


def _on_hub(source: str) -> bool:
    """Return whether the hub answers, after a look at the sizes of the files that it has for an id.

    It is asked once and for a few seconds; transformers asks again and again, for half a minute.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError:
        return True
    try:
        found = HfApi().model_info(source, files_metadata=True, timeout=_PATIENCE)
    except (HfHubHTTPError, HFValidationError):
        return True  # it has answered, or it is no id; transformers says what is wrong
    except Exception:  # of the library that makes the request, which differs between versions
        return False
    for file in found.siblings or ():
        _check_largest(f"{source}/{file.rfilename}", file.rfilename, file.size or 0)
    return True


def _check_largest(where: str, name: str, size: int) -> None:
    """Refuse a file that would be parsed whole and is larger than any of a real model."""
    parsed = name in DESCRIPTIONS or Path(name).suffix.lower() in _PARSED
    if parsed and size > LARGEST:
        raise ValueError(
            f"{where} has {size:,} bytes, and a file that describes a model or its tokens may have "
            f"{LARGEST:,}; take it out, or give another model"
        )


def _check(source: str | Path) -> None:
    folder = Path(source)
    if not folder.is_dir():
        for name in DESCRIPTIONS:
            if (cached := _file(source, name)) is not None:
                _check_largest(str(cached), name, cached.stat().st_size)
        _check_config(_file(source, "config.json"), str(source))
        return
    # the cache of transformers has its files in `blobs`, with links in `snapshots/<commit>`
    cache = folder.resolve().parent
    allowed = [folder.resolve(), *([cache.parent / "blobs"] if cache.name == "snapshots" else [])]
    for path in folder.iterdir():
        if path.is_symlink() and not any(path.resolve().is_relative_to(at) for at in allowed):
            raise ValueError(
                f"{path} is a link to a file outside of its folder, which is not followed; put the "
                "file itself there"
            )
        if path.is_file():
            _check_largest(str(path), path.name, path.stat().st_size)
    if (folder / "adapter_config.json").exists():
        raise ValueError(
            f"{folder} holds an adapter of peft, not a whole model; merge it into its model "
            "(merge_and_unload) and save that"
        )
    _check_config(_file(source, "config.json"), str(source))


def _check_config(path: Path | None, source: str) -> None:
    if path is None:
        return  # transformers downloads it, or raises an error
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error})") from error
    refuse_kernels(config, source)


def refuse_kernels(config: object, source: str) -> None:
    """Raise ValueError where a model's config names a kernel of the hub.

    transformers would download and run it for the model's attention or experts.
    """
    for key, value in _entries(config):
        if "implementation" in key and isinstance(value, str) and ("/" in value or ":" in value):
            raise ValueError(
                f"{source} asks for the kernel {value[:200]!r} ({key} in its config), which would "
                "run code from elsewhere; take that line out"
            )


def _entries(config: object) -> Iterator[tuple[str, object]]:
    """Yield all keys with their values, at every depth."""
    if isinstance(config, dict):
        for key, value in config.items():
            yield str(key), value
            yield from _entries(value)
    elif isinstance(config, list):
        for value in config:
            yield from _entries(value)
