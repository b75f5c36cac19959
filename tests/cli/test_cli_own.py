"""`evaluate` and `certify` on a network whose robustness is known in closed form."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from robustprune.certify import read_certificates
from robustprune.cli import main
from robustprune.cli.certify import certify_script

MODULE = """
import torch
from torch import nn

def build():
    return nn.Linear(4, 2)

def lines():
    return [1, 2]
"""
# class 0 against class 1: logit difference is x·w with w below, so r* in L∞ is |x·w| / ‖w‖₁
W = torch.tensor([[1.0, 0.5, -0.25, 0.0], [0.0, 0.0, 0.0, 0.25]])
DIFFERENCE = W[0] - W[1]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module, its weights and twelve examples, as the current one."""
    monkeypatch.chdir(tmp_path)
    Path("own_nets.py").write_text(MODULE)
    save_file({"weight": W, "bias": torch.zeros(2)}, "own.safetensors")
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    y = (x @ DIFFERENCE < 0).long()
    y[0] = 1 - y[0]  # one is misclassified
    np.savez("own.npz", x=x.numpy(), y=y.numpy())
    monkeypatch.delitem(sys.modules, "own_nets", raising=False)
    return tmp_path


def distances() -> tuple[torch.Tensor, torch.Tensor]:
    with np.load("own.npz") as arrays:
        x, y = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"])
    signed = (x @ DIFFERENCE) * (1 - 2 * y)
    return signed.clamp_min(0) / DIFFERENCE.abs().sum(), y


NAMED = ["own_nets:build", "--state", "own.safetensors", "--data", "own.npz"]


def test_evaluate_finds_the_known_robustness(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    r, _ = distances()
    assert main(["evaluate", *NAMED, "--eps", "0.3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 12
    assert found["clean"]["value"] == pytest.approx(11 / 12)
    truth = float((r > 0.3).double().mean())
    assert 0 < truth < 11 / 12
    assert set(found["robust"]) == {"fgsm", "pgd20", "autoattack", "worst"}
    assert all(figure["value"] == pytest.approx(truth) for figure in found["robust"].values())
    middle = float(r.sort().values[5])
    assert middle <= found["minimal"]["median"] <= 1.02 * middle
    assert found["minimal"]["accuracy_at_eps"] == pytest.approx(truth)
    assert {f["name"] for f in found["findings"]} >= {"labels-fit", "accuracy-reaches-zero"}


def test_evaluate_shows_intervals(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", *NAMED, "--eps", "3/10", "--attacks", "--minimal", "3"]) == 0
    shown = capsys.readouterr().out
    assert "own_nets:build on 12 examples of own.npz, linf eps 0.3" in shown
    assert "clean          91.7%  [61.5, 99.8]" in shown
    assert "median r*" in shown
    assert "n = 3" in shown


def test_certify_writes_true_bounds_that_bind_to_the_files(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*NAMED, "--eps", "0.3", "--out", "proofs", "--json"]
    assert certify_script(command) == 0
    said = json.loads(capsys.readouterr().out)
    r, y = distances()
    assert said["methods"]["crown"]["beyond_eps"] == int((r > 0.3).sum())
    manifest, certificates = read_certificates(Path(said["file"]))
    assert (manifest.task, manifest.model, manifest.n) == ("own.npz", "own_nets:build", 12)
    for certificate, truth, label in zip(certificates, r.tolist(), y.tolist(), strict=True):
        assert certificate.label == label
        assert 0.99 * truth - 1e-6 <= certificate.radius <= truth + 1e-6  # linear: tight
    before = Path("proofs/certificates.jsonl").read_bytes()
    assert main(["certify", *command]) == 0
    assert Path("proofs/certificates.jsonl").read_bytes() == before


def test_a_config_gives_examples_and_threat(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("own_nets.py").write_text(
        "from torch import nn\ndef build(): return nn.Sequential(nn.Flatten(), nn.Linear(96, 2))\n"
    )
    weight = torch.zeros(2, 96)
    save_file({"1.weight": weight, "1.bias": torch.tensor([0.0, 1.0])}, "own.safetensors")
    command = ["evaluate", *NAMED[:3], "--config", "rst_ecg200", "--examples", "7", "--json"]
    assert main([*command, "--attacks", "--set", "threat.eps=0.2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["source"], found["n"], found["threat"]["eps"]) == ("ecg200", 7, 0.2)
    # a constant answer cannot be attacked: that is what the sanity checks are for
    assert found["clean"] == found["robust"]["worst"]
    assert not all(finding["ok"] for finding in found["findings"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: "own_nets"}, "is not of the form package.module:function"),
        ({0: "own_nots:build"}, "cannot import own_nots"),
        ({0: "own_nets:built"}, "has no function 'built'"),
        ({0: "own_nets:lines"}, "it must return an nn.Module"),
        ({2: "nothing.safetensors"}, "there is no state file nothing.safetensors"),
        ({2: "own.npz"}, "is no safetensors file"),
        ({2: "other.safetensors"}, "does not fit own_nets:build"),
        ({4: "nothing.npz"}, "no file nothing.npz"),
        ({4: "bad.npz"}, "give whole numbers"),
    ],
)
def test_mistakes_are_one_line(
    own: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[int, str],
    message: str,
) -> None:
    save_file({"weight": torch.zeros(3, 4)}, "other.safetensors")
    np.savez("bad.npz", x_test=np.zeros((3, 4)), y_test=np.array(["a", "b", "a"]))
    arguments = [change.get(place, text) for place, text in enumerate(NAMED)]
    assert main(["evaluate", *arguments, "--eps", "0.1"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--data needs --eps"),
        (["--eps", "0.1", "--set", "threat.eps=1"], "--set goes with --config"),
        (["--eps", "0.1", "--examples", "0"], "--examples 0 must be at least 1"),
        (["--eps", "0.1", "--method", "none"], "nothing to certify with"),
        (["--eps", "0.1", "--sigma", "-1"], "certify.sigma=-1.0 is not valid"),
    ],
)
def test_options_that_do_not_go_together(
    own: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["certify", *NAMED, *options]) == 2
    assert message in capsys.readouterr().err
    assert not Path("certificates").exists()


def test_wrong_usage_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", *NAMED, "--eps", "large"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "'large' is no number; give one such as 0.1 or 8/255" in error
