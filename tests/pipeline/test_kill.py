"""kill -9 at any moment, the same command again: bit for bit what an undisturbed run gives."""

from __future__ import annotations

import multiprocessing
import random
import signal
import sys
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import yaml
from killing import kept, run

from robustprune.run.config import METHODS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs kill -9 and forks")

CONFIG = {
    "name": "killed",
    "task": {"name": "ecg200", "batch_size": 50, "validation": 0.2},
    "model": {"name": "fcn", "options": {"widths": [3, 4], "kernels": [5, 3]}},
    "inner": {"steps": 1},
    "natural": {"epochs": 2},
    "adversarial": {"epochs": 2},
    "search": {"density": [0.3], "epochs": 3, "optimizer": {"lr": 0.5}},
    "admm": {"epochs": 3, "every": 1, "l1": 1e-3},
    "scores": {"epochs": 3},
    "lottery": {"epochs": 2, "rounds": 2, "rewind": 1},
    "language": {"epochs": 2},
    "finetune": {"modes": ["inherit"], "epochs": 2, "optimizer": {"name": "adam", "lr": 0.01}},
    "evaluation": {"steps": 2, "restarts": 1, "curve": False, "examples": 40},
    "certify": {"method": "ibp", "examples": 2, "sigma": 0.5, "n0": 8, "n": 16},
}


class Command:
    """One command, given again and again, each time in a process of its own.

    The processes are forked from one that has imported everything, which saves their start; what
    runs in them is what the scripts run.
    """

    def __init__(self, folder: Path, methods: tuple[str, ...], **sections: dict) -> None:
        folder.mkdir()
        tree = {**CONFIG, **sections, "search": {**CONFIG["search"], "methods": list(methods)}}
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(tree))
        self.folder, self.log = folder, folder / "stderr.txt"
        self.base = ["run", str(config), "--quiet", "--checkpoint-seconds", "0", "--device", "cpu"]
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["killing", "robustprune.pipeline", "torch._dynamo"])

    def start(
        self, out: str, die_at: int = 0, by: signal.Signals = signal.SIGKILL
    ) -> ForkServerProcess:
        arguments = [*self.base, "--out", str(self.folder / out)]
        process = self.context.Process(target=run, args=(arguments, die_at, str(self.log), by))
        process.start()
        return process

    def finish(self, out: str) -> tuple[dict[str, bytes], float]:
        """The files of the finished run, and how long that took."""
        started = time.monotonic()
        process = self.start(out)
        process.join()
        assert process.exitcode == 0, self.log.read_text()
        return kept(self.folder / out), time.monotonic() - started

    def kill_after(self, out: str, seconds: float) -> int:
        """The process's exit code: -9 where the kill came before its end."""
        process = self.start(out)
        process.join(seconds)
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), self.log.read_text()
        return process.exitcode


def assert_same(files: dict[str, bytes], straight: dict[str, bytes]) -> None:
    assert files.keys() == straight.keys()
    assert [name for name in files if files[name] != straight[name]] == []


def kill_at_random(command: Command, straight: dict[str, bytes], span: float, kills: int) -> None:
    """At times drawn over the length of a whole run, until so many kills have struck; a run that
    gets to its end is compared and another begun."""
    rng, struck, number = random.Random(0), 0, 0
    while struck < kills:
        if command.kill_after(f"random{number}", rng.uniform(0.0, span)):
            struck += 1
        else:
            assert_same(command.finish(f"random{number}")[0], straight)
            number += 1
    assert_same(command.finish(f"random{number}")[0], straight)


def kill_at_writes(command: Command, straight: dict[str, bytes], kills: int) -> None:
    """Before and after file operations, a few further in each time."""
    rng = random.Random(1)
    for _ in range(kills):
        process = command.start("writes", die_at=rng.randint(8, 40))
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), command.log.read_text()
    assert_same(command.finish("writes")[0], straight)


@pytest.fixture(scope="module")
def lottery(tmp_path_factory: pytest.TempPathFactory) -> tuple[Command, dict[str, bytes]]:
    """A small command and what it gives undisturbed."""
    folder = tmp_path_factory.mktemp("kill") / "run"
    command = Command(folder, ("lottery",), certify={}, finetune={"modes": []})
    return command, command.finish("straight")[0]


def test_a_few_kills(lottery: tuple[Command, dict[str, bytes]]) -> None:
    command, straight = lottery
    kill_at_random(command, straight, 1.5, kills=4)
    kill_at_writes(command, straight, kills=3)


@pytest.mark.parametrize(
    ("by", "status", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, -signal.SIGTERM, "terminated")],
)
def test_who_stops_a_run_hears_how_to_go_on(
    lottery: tuple[Command, dict[str, bytes]], by: signal.Signals, status: int, word: str
) -> None:
    command, straight = lottery
    command.log.unlink(missing_ok=True)
    process = command.start(by.name, die_at=31, by=by)
    process.join()
    assert process.exitcode == status
    assert command.log.read_text() == f"{word}; the same command goes on where it stopped\n"
    assert_same(command.finish(by.name)[0], straight)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_kills_at_any_moment_of_any_method(tmp_path: Path, method: str) -> None:
    command = Command(tmp_path / "run", (method,))
    straight, span = command.finish("straight")
    kill_at_random(command, straight, span, kills=8)
    kill_at_writes(command, straight, kills=12)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["free", "gaussian", "crown-ibp", "trades"])
def test_kills_under_other_objectives(tmp_path: Path, objective: str) -> None:
    command = Command(
        tmp_path / "run",
        ("rst", "lottery"),
        objective={"name": objective},
        loop={"average": 0.9},
    )
    straight, span = command.finish("straight")
    kill_at_random(command, straight, span, kills=8)


@pytest.mark.slow
def test_kills_of_a_run_on_sentences(tmp_path: Path, tiny_bert: Path) -> None:
    """Whose text is attacked and whose certificates are in embedding space."""
    pytest.importorskip("Oyemi", reason="WordNet needs the extra text")
    command = Command(
        tmp_path / "run",
        ("language",),
        task={"name": "sst2_sample", "batch_size": 64, "max_length": 16, "validation": 0.1},
        model={"name": "language", "options": {"weights": str(tiny_bert)}},
        threat={"norm": "l2", "eps": 0.2},
        language={"epochs": 2, "granularity": "neuron"},
        evaluation={
            "steps": 2, "restarts": 1, "curve": False, "examples": 20,
            "text": ["deep_word_bug", "text_fooler"], "sentences": 4, "queries": 20,
        },
        certify={"sigma": 0.01, "examples": 2, "n0": 10, "n": 20},
    )  # fmt: skip
    straight, span = command.finish("straight")
    kill_at_random(command, straight, span, kills=8)
    kill_at_writes(command, straight, kills=12)
