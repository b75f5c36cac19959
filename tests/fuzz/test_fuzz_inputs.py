"""Whatever a config holds, reading it ends in what it says or in one clear error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from fuzzing import FEW, MANY, NASTY, clear, fuzz, mutated
from hypothesis import strategies as st

from robustprune.run.config import Config, load_config, parse_config
from robustprune.run.packaged import config_names, config_path

Check = Callable[[Any], None]

CONFIGS = tuple(config_path(name).read_bytes() for name in config_names())
FIELDS = sorted(
    {*Config.model_fields}
    | {
        field
        for section in Config.model_fields.values()
        for field in getattr(section.annotation, "model_fields", {})
    }
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(NASTY),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
OVERRIDES = tuple(
    text.encode()
    for text in (
        "threat.eps=8/255",
        "search.density=[0.1, 0.5]",
        "seed=1",
        "model.options.a={b: c}",
    )
)


def is_whole(config: object) -> None:
    """A config that was taken comes back from its own text, and has a digest."""
    if config is not None:
        assert isinstance(config, Config)
        assert len(config.digest()) == 8
        assert parse_config(cast(dict[str, Any], config.model_dump())) == config


def config_file(folder: Path) -> Check:
    def check(content: bytes) -> None:
        (folder / "c.yaml").write_bytes(content)
        is_whole(clear(lambda: load_config(folder / "c.yaml")))

    return check


def config_tree(folder: Path) -> Check:
    def check(tree: dict[str, Any]) -> None:
        is_whole(clear(lambda: parse_config(tree)))

    return check


def override(folder: Path) -> Check:
    (folder / "c.yaml").write_bytes(CONFIGS[0])

    def check(content: bytes) -> None:
        text = content.decode(errors="replace")
        is_whole(clear(lambda: load_config(folder / "c.yaml", [text])))

    return check


#: reader -> (how to make its check, what it reads)
READERS: dict[str, tuple[Callable[[Path], Check], st.SearchStrategy[Any]]] = {
    "config file": (config_file, mutated(CONFIGS)),
    "config tree": (config_tree, st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4)),
    "override": (override, mutated(OVERRIDES)),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_gives_a_value_or_a_clear_error(reader: str, tmp_path: Path) -> None:
    make, inputs = READERS[reader]
    fuzz(make(tmp_path), inputs, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_a_reader_over_many_inputs(reader: str, tmp_path: Path) -> None:
    make, inputs = READERS[reader]
    fuzz(make(tmp_path), inputs, MANY)
