"""The command line as a whole: help, list, completion, and what importing it costs."""

import argparse
import json
import subprocess
import sys

import pytest

from robustprune.cli import FIND_RST, listing, main, run_script
from robustprune.cli.evaluate import MORE
from robustprune.cli.main import parser
from robustprune.measure import MORE as MEASURED
from robustprune.models import model_names
from robustprune.run.config import METHODS
from robustprune.run.packaged import config_names
from robustprune.tasks import task_names


def commands() -> dict[str, argparse.ArgumentParser]:
    (choices,) = (a.choices for a in parser()._actions if isinstance(a.choices, dict))
    return choices


COMMANDS = commands()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_teaches_by_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert f"examples:\n  robustprune {name}" in shown
    assert "Exit status:" in shown
    assert "--quiet" in shown
    assert "--json" in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_can_be_parsed(name: str) -> None:
    examples = COMMANDS[name].epilog.partition("\n\n")[0].splitlines()[1:]
    for line in examples:
        arguments = line.strip().partition("  ")[0].split()
        assert parser().parse_args(arguments[1:]).command == name


def test_list_knows_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["methods"]) == list(METHODS)
    assert list(found["tasks"]) == task_names()
    assert list(found["models"]) == model_names()
    assert list(found["configs"]) == config_names()
    assert {"PGD", "AutoAttack", "FMN"} <= set(found["attacks"])
    assert "ThreatModel" not in found["attacks"]
    assert all(line for kind in found.values() for line in kind.values())
    assert MORE == MEASURED


def test_list_prints_the_kinds_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "methods", "tasks"]) == 0
    shown = capsys.readouterr().out
    assert listing.METHODS["harp"] in shown
    assert "models:" not in shown
    assert main(["list", "method"]) == 2
    assert "choose any of methods, tasks" in capsys.readouterr().err
    assert main(["list", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--print-completion", shell])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for name in COMMANDS:
        assert name in shown


def test_bash_completes_commands() -> None:
    script = subprocess.run(
        [sys.executable, "-m", "robustprune", "--print-completion", "bash"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    ask = 'COMP_WORDS=(robustprune ver); COMP_CWORD=1; COMP_LINE="robustprune ver"; COMP_POINT=15'
    complete = f"{ask}; _shtab_robustprune robustprune ver robustprune; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{complete}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["verify"]


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from robustprune.cli.main import parser; parser();"
        "print('torch' in sys.modules, 'pydantic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["run", "rst_ecg200", "--densty", "0.1"], "--density"),
        (["verify", "runs/x", "--quite"], "--quiet"),
        (["run", "rst_ecg200", "--sed=3"], "--seed"),
    ],
)
def test_a_mistyped_option_is_answered_with_the_nearest(
    arguments: list[str], near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert f"(did you mean '{near}'?)" in said
    assert said.count("\n") == 1


def test_two_options_are_not_alike_by_their_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_script(FIND_RST, ["--epocs", "3"])
    assert "there is no option --epocs (see" in capsys.readouterr().err
