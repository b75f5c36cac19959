"""`verify` of certificates of the user's own network: what holds, what does not, what can't be."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from robustprune.certify import read_certificates
from robustprune.cli import main

MODULE = """
import torch
from torch import nn

def build(scale=1.0):
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    if scale != 1.0:
        torch.manual_seed(3)
        net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    return net
"""
MODEL = ["--model", "sure_nets:build"]
STATE, DATA = ["--state", "net.safetensors"], ["--data", "data.csv"]
CERTIFY = ["certify", "sure_nets:build", "--eps", "0.05", "--method", "ibp", "--quiet"]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("sure_nets.py").write_text(MODULE)
    monkeypatch.delitem(sys.modules, "sure_nets", raising=False)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    save_file(net.state_dict(), "net.safetensors")
    torch.save(net.state_dict(), "net.pt")
    x = torch.randn(6, 4)
    y = net(x).argmax(1)
    y[0] = 1 - y[0]
    rows = [
        ",".join(map(str, [*row, label])) for row, label in zip(x.tolist(), y.tolist(), strict=True)
    ]
    Path("data.csv").write_text("\n".join(["a,b,c,d,kind", *rows]))
    return tmp_path


def certified(*more: str) -> None:
    read = ["--label", "kind", "--layout", "flat", "--out", "proofs"]
    assert main([*CERTIFY, *DATA, *read, *more]) == 0


def failing(capsys: pytest.CaptureFixture[str], *more: str) -> set[str]:
    status = main(["verify", "proofs", "--seed", "1", "--json", *more])
    findings = json.loads(capsys.readouterr().out)["findings"]
    bad = {finding["name"] for finding in findings if not finding["ok"]}
    assert status == (1 if bad else 0)
    return bad


def test_what_was_certified_is_verified_and_a_lie_is_found(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certified(*STATE)
    manifest, certificates = read_certificates(Path("proofs/certificates.jsonl"))
    assert manifest.n == 6
    assert sum(c.radius > 0 for c in certificates) >= 3
    assert failing(capsys, *MODEL, *STATE, *DATA) == set()
    file = Path("proofs/certificates.jsonl")
    lines = file.read_text().splitlines()
    at, line = next((i, json.loads(t)) for i, t in enumerate(lines) if '"certified"' in t or i > 1)
    lines[at] = json.dumps({**line, "radius": 9.0, "attack_radius": None})
    file.write_text("\n".join(lines) + "\n")
    assert failing(capsys, *MODEL, *STATE, *DATA) != set()


def test_a_name_that_is_taken_from_the_file_does_not_count_as_checked(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certified(*STATE)
    file = Path("proofs/certificates.jsonl")
    first, *others = file.read_text().splitlines()
    file.write_text("\n".join([json.dumps({**json.loads(first), "task": "MNIST"}), *others, ""]))
    assert main(["verify", "proofs", "--seed", "1", *MODEL, *STATE, *DATA]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines if "MNIST" in line] == ["not checked"]


def test_other_weights_data_or_options_are_found(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certified(*STATE)
    save_file(
        {k: v + 0.01 for k, v in torch.load("net.pt", weights_only=True).items()},
        "other.safetensors",
    )
    assert "manifest, weights" in failing(capsys, *MODEL, "--state", "other.safetensors", *DATA)
    table = Path("data.csv").read_text()
    Path("moved.csv").write_text(table)  # another name for the same data
    assert failing(capsys, *MODEL, *STATE, "--data", "moved.csv") == set()
    Path("moved.csv").write_text(table.replace("0.", "0.1", 1))
    assert "manifest, data" in failing(capsys, *MODEL, *STATE, "--data", "moved.csv")
    asked = json.loads(Path("proofs/certify.json").read_text())
    Path("proofs/certify.json").write_text(json.dumps({**asked, "eps": 0.1}))
    bad = failing(capsys, *MODEL, *STATE, *DATA)
    assert {"manifest, config", "manifest, eps"} <= bad


@pytest.mark.parametrize("state", [["--state", "net.pt"], []])
def test_weights_that_are_not_safetensors_are_kept_beside_the_certificates(
    own: Path, capsys: pytest.CaptureFixture[str], state: list[str]
) -> None:
    options = [] if state else ["--set", "model.options.scale=2.0"]
    certified(*state, *options)
    before = Path("proofs/certificates.jsonl").read_bytes()
    certified(*state, *options)  # the same again
    assert Path("proofs/certificates.jsonl").read_bytes() == before
    assert failing(capsys, *MODEL, *state, *DATA, *options) == set()
    assert failing(capsys, *MODEL, *DATA, *options) == set()  # with the weights that are there
    torch.save({k: v + 1 for k, v in torch.load("net.pt", weights_only=True).items()}, "net.pt")
    if state:
        assert failing(capsys, *MODEL, *state, *DATA) == {"weights"}
        assert main([*CERTIFY, *DATA, "--label", "kind", "--layout", "flat", *state,
                     "--out", "proofs"]) == 2  # fmt: skip
        assert "they would be lost" in capsys.readouterr().err


def test_smoothed_certificates_without_eps_are_verified(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    smooth = ["certify", "sure_nets:build", *STATE, *DATA, "--method", "none", "--sigma", "0.1"]
    read = ["--label", "kind", "--layout", "flat", "--out", "proofs", "--quiet"]
    assert main([*smooth, "--n", "500", *read]) == 0
    assert failing(capsys, *MODEL, *STATE, *DATA) == set()


def test_what_cannot_be_checked_is_bad_input(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("sure_nets.py").write_text(
        "import pathlib\nran = pathlib.Path('ran')\n"
        f"ran.write_text('x' * (1 + ran.exists()))\n{MODULE}"
    )
    certified(*STATE)
    assert Path("ran").read_text() == "x"
    sys.modules.pop("sure_nets")
    whole = [*MODEL, *STATE, *DATA]
    for options, message in (
        ([], "such as --model sure_nets:build --state net.safetensors --data data.csv"),
        (MODEL, "name it and its data yourself"),
        ([*MODEL, *DATA], "has no weights.safetensors; name the file of the network's weights"),
        ([*MODEL, *STATE, "--data", "nothing.csv"], "there is no file or folder nothing.csv"),
        ([*MODEL, "--state", "nothing.pt", *DATA], "there is no state file nothing.pt"),
        ([*whole, "--set", "threat.eps=1"], "--set threat.eps goes with --config"),
    ):
        assert main(["verify", "proofs", "--quiet", *options]) == 2, options
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    asked = json.loads(Path("proofs/certify.json").read_text())
    for content, message in (
        ("{", "certify.json is no JSON"),
        (json.dumps({**asked, "n0": "many"}), "is not as certify writes it: n0"),
        (json.dumps({**asked, "secret": 1}), "is not as certify writes it: secret"),
    ):
        Path("proofs/certify.json").write_text(content)
        assert main(["verify", "proofs", "--quiet", *whole]) == 2
        assert message in capsys.readouterr().err
    assert Path("ran").read_text() == "x"


def test_a_file_names_neither_data_nor_arguments_of_the_function(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The author of the files can't make another file be read, or another call be made."""
    certified(*STATE)
    path = Path("proofs/certify.json")
    asked = json.loads(path.read_text())
    foreign = ["task.path=/etc/passwd", "task={name: csv, path: secret.csv}", "model.options.x=1"]
    path.write_text(json.dumps({**asked, "overrides": [*asked["overrides"], *foreign]}))
    assert failing(capsys, *MODEL, *STATE, *DATA) == {"manifest, config"}


def test_options_for_own_networks_are_refused_for_a_run(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("run").mkdir()
    Path("run/config.yaml").write_text("{}")
    Path("run/certificates.jsonl").touch()
    assert main(["verify", "run", "--label", "first"]) == 2
    assert "--label is for certificates of your own network" in capsys.readouterr().err
    assert main(["verify", "run", "--data", "data.csv"]) == 2
    assert "--data is for a run on your own data, and this one read" in capsys.readouterr().err
    Path("run/config.yaml").unlink()
    assert main(["verify", "run"]) == 2
