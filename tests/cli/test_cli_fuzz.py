"""Whatever is typed, the command line answers: exit status 0 or 2, one line for the latter."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from robustprune.cli import main

COMMANDS = ("run", "evaluate", "certify", "verify", "trust", "report", "compare", "sweep", "list")
OPTIONS = (
    *("--config", "--data", "--state", "--eps", "--norm", "--bounds", "--examples", "--batch-size"),
    *("--seed", "--set", "--device", "--data-dir", "--out", "--method", "--density", "--objective"),
    *("--dry-run", "--steps", "--restarts", "--minimal", "--attacks", "--sigma", "--n", "--n0"),
    *("--alpha", "--status", "--jobs", "--threads", "--devices", "--slurm", "--all", "--grid"),
    *("--entry", "--key", "--paper", "--json", "--quiet", "--help", "--version", "--nonsense"),
    *("--checkpoint-seconds", "--print-completion", "-h", "-x", "--", "-1"),
)
FILES = (
    *("missing", "empty", "folder", "text.yaml", "bytes", "list.yaml", "net.safetensors", "x.npz"),
    *("sweep.yaml", "runs", "loop", "broken.safetensors", "unreadable", "fuzz_nets.py"),
)
VALUES = (
    *("0", "1", "-1", "0.5", "50", "nan", "inf", "1e400", "8/255", "1/0", "9" * 30, "", " ", "a b"),
    *("cpu", "gpu", "cuda:99", "linf", "l3", "rst", "rts", "rst_ecg200", "rst_ecg20", "natural"),
    *("threat.eps=x", "treat.eps=1", "=", "a", "search=3", "seed=[", "model.options={a: b}"),
    *(
        "fuzz_nets:build",
        "fuzz_nets:wrong",
        "fuzz_nets.py:build",
        "nowhere:x",
        ":",
        "a:b:c",
        "..:x",
    ),
    *("methods", "bash", "\x1b[2K", "\u202e", "a\nb", "\udcff", "y" * 3000, "[", "%", "{}"),
)
# `run` and `sweep` of a good config would train; this key is in no config
SPOIL = ["--set", "nonsense.key=1"]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with one file of each kind, as the current one."""
    folder = tmp_path_factory.mktemp("fuzz")
    before = Path.cwd()
    os.chdir(folder)
    for name in ("empty", "unreadable"):
        Path(name).write_text("")
    Path("unreadable").chmod(0)
    Path("folder").mkdir()
    Path("runs/a/seed0").mkdir(parents=True)
    Path("runs/a/seed0/metrics.json").write_text("{}")
    Path("text.yaml").write_text("a: [\n")
    Path("list.yaml").write_text("- 1\n")
    Path("sweep.yaml").write_text("name: s\nconfig: rst_ecg200\ngrid: {seeds: [0]}\n")
    Path("bytes").write_bytes(bytes(range(256)))
    Path("broken.safetensors").write_bytes(b"\xff" * 40)
    Path("loop").symlink_to("loop")
    Path("fuzz_nets.py").write_text(
        "from torch import nn\ndef build(): return nn.Linear(4, 2)\ndef wrong(x): return x\n"
    )
    save_file(nn.Linear(4, 2).state_dict(), "net.safetensors")
    x = np.random.default_rng(0).random((3, 5), np.float32)  # five features are one too many
    np.savez("x.npz", x=x, y=np.arange(3) % 2)
    yield folder
    Path("unreadable").chmod(0o600)
    os.chdir(before)
    sys.modules.pop("fuzz_nets", None)


WORDS = st.one_of(
    st.sampled_from(OPTIONS),
    st.sampled_from(FILES),
    st.sampled_from(VALUES),
    st.text(max_size=8),
    st.builds("{}={}".format, st.sampled_from(OPTIONS), st.sampled_from(VALUES)),
)
#: option and value side by side get further than words in any order
PAIRS = st.lists(
    st.one_of(
        WORDS.map(lambda word: [word]),
        st.tuples(st.sampled_from(OPTIONS), st.sampled_from(FILES + VALUES)).map(list),
    ),
    max_size=5,
).map(lambda parts: [word for part in parts for word in part])
#: what some commands cannot do without, so that the rest is looked at
NEEDED = {
    "run": ["rst_ecg200", *SPOIL],
    "sweep": ["sweep.yaml"],
    "evaluate": ["fuzz_nets:build", "--state", "net.safetensors", "--data", "x.npz", "--eps", "1"],
    "certify": ["fuzz_nets:build", "--state", "net.safetensors", "--data", "x.npz", "--eps", "1"],
    "report": ["runs"],
    "verify": ["runs"],
    "trust": ["runs/a/seed0"],
    "compare": ["runs"],
    "list": ["methods"],
}


def arguments_of(command: str, words: list[str], whole: bool) -> list[str]:
    if whole:
        return [command, *NEEDED[command], *words]
    return [command, *words, *(SPOIL if command == "run" else [])]


ARGUMENTS = st.one_of(
    st.builds(arguments_of, st.sampled_from(COMMANDS), PAIRS, st.booleans()),
    PAIRS.filter(lambda words: not set(words) & set(COMMANDS)),
)


def check(arguments: list[str]) -> None:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(arguments)
        except SystemExit as stopped:
            status = stopped.code
    said = err.getvalue()
    assert status in (0, 2), said
    assert "Traceback" not in said
    if status == 2:
        lines = [line for line in said.splitlines() if not line.startswith("warning: ")]
        assert len(lines) == 1, said
        assert lines[0].startswith("error: ")
        assert len(lines[0]) < 2500
        assert lines[0].isprintable()
    for text in (said, out.getvalue()):
        assert "\x1b" not in text.replace("\x1b[0m", "")
        assert "\u202e" not in text


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(arguments=ARGUMENTS)
def test_any_words_are_answered(here: Path, arguments: list[str]) -> None:
    check(arguments)


@pytest.mark.slow
@settings(
    max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(arguments=ARGUMENTS)
def test_any_words_are_answered_many(here: Path, arguments: list[str]) -> None:
    check(arguments)
