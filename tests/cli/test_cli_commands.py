"""The command line as a whole: help, list, completion, and what importing it costs."""

import argparse
import json
import os
import subprocess
import sys

import pytest

from robustprune.cli import FIND_RST, main, run_script
from robustprune.cli.evaluate import MORE
from robustprune.cli.main import parser
from robustprune.layerwise import SOLVERS
from robustprune.measure import MORE as MEASURED
from robustprune.models import model_names
from robustprune.pipeline.causal_run import NETWORK
from robustprune.pipeline.methods import ROWS
from robustprune.run.config import METHODS
from robustprune.run.packaged import config_names
from robustprune.tasks import corpus_names, task_names


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
    assert list(found["methods"]) == list(METHODS) == list(ROWS)
    assert list(found["tasks"]) == sorted([*task_names(), *corpus_names()])
    assert list(found["models"]) == sorted([*model_names(), NETWORK])
    assert list(found["configs"]) == config_names()
    assert list(found["solvers"]) == list(SOLVERS)
    assert "Boža 2024" in found["solvers"]["admm"]
    assert {"PGD", "AutoAttack", "FMN"} <= set(found["attacks"])
    assert "ThreatModel" not in found["attacks"]
    assert all(line for kind in found.values() for line in kind.values())
    assert MORE == MEASURED


def test_list_prints_the_kinds_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "methods", "tasks"]) == 0
    shown = capsys.readouterr().out
    assert ROWS["harp"].summary in shown
    assert "models:" not in shown
    assert main(["list", "method"]) == 2
    error = capsys.readouterr().err
    assert "(did you mean 'methods'?); choose any of methods, solvers" in error
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
        (["evaluate", "nets:build", "--state", "x", "--conifg", "rst_ecg200"], "--config"),
        (["certify", "a:b", "--state", "x", "--data", "y", "--norm", "linff"], "linf"),
        (["rn", "rst_ecg200"], "run"),
        (["list", "--jsno"], "--json"),
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


def test_a_positional_given_as_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--config", "rst_ecg200"])
    assert "(the config needs none: robustprune run CONFIG)" in capsys.readouterr().err


def test_without_a_command_it_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("usage: robustprune")
    assert "robustprune run rst_ecg200 --dry-run" in shown.out
    assert shown.err == ""


@pytest.mark.parametrize(
    "arguments", [["list", "methods"], ["--print-completion", "bash"], ["run", "--help"], []]
)
def test_a_reader_that_goes_away_gets_no_traceback(arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)  # like `| true`: the first write fails
    command = [sys.executable, "-m", "robustprune", *arguments]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode in (0, 141)  # argparse takes no notice of a reader of its help
    assert done.stderr == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "y" * 5000],
        ["list", "y" * 5000],
        ["y" * 5000],
        ["run", "--" + "y" * 5000],
        ["evaluate", "a:b", "--state", "x", "--data", "y", "--eps", "y" * 5000],
        ["run", "rst_ecg200", "--set", "y" * 5000],
        ["run", "rst_ecg200", "--set", "threat.norm=" + "y" * 5000],
        ["run", "rst_ecg200", "--device", "y" * 5000],
        ["run", "rst_ecg200", "--density", "y" * 5000],
        ["run", "rst_ecg200", "--method", "y " * 2500],
        ["compare", "y " * 2500],
    ],
    ids=lambda arguments: " ".join(arguments)[:30],
)
def test_an_error_repeats_little_of_what_it_was_given(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(arguments)
    except SystemExit as stopped:
        status = stopped.code
    error = capsys.readouterr().err
    assert status == 2
    assert error.count("\n") == 1
    assert error.count("y") < 300


def test_an_error_moves_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "a\x1b[2K\u202eb"]) == 2
    assert r"a\x1b[2K\u202eb" in capsys.readouterr().err
