"""`evaluate` and `certify` on a network whose robustness is known in closed form."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from robustprune.certify import read_certificates
from robustprune.cli import main
from robustprune.cli.certify import certify_script
from robustprune.pipeline.own_network import load_network

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


def test_a_missing_library_is_one_line(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None))
    monkeypatch.setattr("robustprune.tasks.tables.importlib", nothing)
    Path("own.parquet").write_bytes(b"PAR1")
    assert main(["evaluate", *NAMED[:3], "--data", "own.parquet", "--eps", "0.3"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: parquet files need pyarrow; install it with")


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


@pytest.mark.filterwarnings("always::attacks.sanity.EvaluationWarning")
def test_a_config_gives_examples_and_threat(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("own_nets.py").write_text(
        "from torch import nn\ndef build(): return nn.Sequential(nn.Flatten(), nn.Linear(96, 2))\n"
    )
    weight = torch.zeros(2, 96)
    save_file({"1.weight": weight, "1.bias": torch.tensor([0.0, 1.0])}, "own.safetensors")
    command = ["evaluate", *NAMED[:3], "--config", "rst_ecg200", "--examples", "7", "--json"]
    assert main([*command, "--attacks", "--set", "threat.eps=0.2"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert (found["source"], found["n"], found["threat"]["eps"]) == ("ecg200", 7, 0.2)
    # a constant answer cannot be attacked: that is what the sanity checks are for
    assert "warning: zero-gradients: 6 of the 6 unbroken examples" in said.err
    assert found["clean"] == found["robust"]["worst"]
    assert not all(finding["ok"] for finding in found["findings"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: "own_nets"}, "is not of the form package.module:function"),
        ({0: "own.npz"}, "a file of weights belongs behind --state"),
        ({0: "own_nots:build"}, "cannot import own_nots"),
        ({0: "own_nets:built"}, "has no function 'built'"),
        ({0: "own_nets:lines"}, "it must return an nn.Module"),
        ({2: "nothing.safetensors"}, "there is no state file nothing.safetensors"),
        ({2: "own.npz"}, "own.npz cannot be read as plain tensors"),
        ({2: "own_nets.py"}, "is neither a safetensors file nor one of torch.save"),
        ({2: "other.safetensors"}, "does not fit own_nets:build"),
        ({4: "nothing.npz"}, "there is no file or folder nothing.npz"),
        ({4: "bad.npz"}, "float64 and not whole numbers"),
    ],
)
def test_mistakes_are_one_line(
    own: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[int, str],
    message: str,
) -> None:
    save_file({"weight": torch.zeros(3, 4)}, "other.safetensors")
    np.savez("bad.npz", x_test=np.zeros((3, 4)), y_test=np.array([0.5, 1, 0.5]))
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
        (["--eps", "0.1", "--set", "threat.eps=1"], "--set threat.eps goes with --config"),
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


MANY = """
import torch
from torch import nn

class Output:
    def __init__(self, logits):
        self.logits = logits

class Wrapped(nn.Linear):
    form = "tensor"
    def __init__(self):
        super().__init__(4, 2)
    def forward(self, x):
        x.mul_(1.0)  # works in place on its input
        logits = super().forward(x)
        forms = {"tensor": logits, "dict": {"logits": logits}, "object": Output(logits)}
        forms["tuple"] = (logits, None, {"features": x})
        forms["hidden"] = {"hidden": logits}
        return forms[self.form]

def of(form):
    model = Wrapped()
    model.form = form
    return model

def tensor(): return of("tensor")
def dictionary(): return of("dict")
def output(): return of("object")
def triple(): return of("tuple")
def hidden(): return of("hidden")
def parallel(): return nn.DataParallel(nn.Linear(4, 2))
def scripted(): return torch.jit.script(nn.Linear(4, 2))

class Whole(nn.Linear):
    def __init__(self):
        super().__init__(4, 2)

class Series(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 2, 3)
    def forward(self, x):
        return self.conv(x).mean(2)

class Single(nn.Linear):
    def forward(self, x):
        return super().forward(x)[:, :1]

class Flat(nn.Linear):
    def forward(self, x):
        return super().forward(x)[:, 0]

def single(): return Single(4, 2)
def flat(): return Flat(4, 2)
def mlp(width, depth=2, *, classes): return nn.Linear(4, 2)
def broken(): raise KeyError("missing")
def wide(): return nn.Linear(7, 2)
def images(): return nn.Conv2d(3, 2, 1)
instance = nn.Linear(4, 2)
"""


@pytest.fixture
def many(own: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    Path("many_nets.py").write_text(MANY)
    monkeypatch.delitem(sys.modules, "many_nets", raising=False)
    return own


# torch would rather have no new scripted modules; people have old ones
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    "name", ["tensor", "dictionary", "output", "triple", "parallel", "scripted", "Whole"]
)
def test_networks_of_many_kinds_are_measured_alike(
    many: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    r, _ = distances()
    command = ["evaluate", f"many_nets:{name}", *NAMED[1:], "--eps", "0.3", "--json"]
    assert main([*command, "--attacks", "--minimal", "0"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["clean"]["value"] == pytest.approx(11 / 12)
    assert found["robust"]["worst"]["value"] == pytest.approx(float((r > 0.3).double().mean()))


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["evaluate", *arguments, "--eps", "0.1"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert len(captured.err) < 900
    return captured.err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "many_nets:mlp",
            "needs arguments: width, classes; give --set 'model.options={width: ..., ",
        ),
        ("many_nets:broken", "many_nets:broken failed: KeyError: 'missing'"),
        ("many_nets:instance", "many_nets:instance is a network; name a function that returns"),
        ("many_nets:tenser", "has no function 'tenser' (did you mean 'tensor'?); it has Output"),
        ("many_nets.py:tensor", "named without .py and with dots: 'many_nets:tensor')"),
        ("./many_nets.py:tensor", "'many_nets:tensor')"),
        ("many_net:tensor", "cannot import many_net: No module named 'many_net' (did you mean"),
        ("many_nets", "is not of the form package.module:function, such as nets:build"),
        ("many_nets:single", "returned shape (3, 1) for 3 examples"),
        ("many_nets:flat", "returned shape (3,) for 3 examples"),
        ("many_nets:hidden", "with the keys 'hidden'"),
    ],
)
def test_a_network_that_cannot_be_used_says_why(
    many: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    assert message in said(capsys, name, *NAMED[1:])


def test_examples_that_do_not_fit_the_network(
    many: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"conv.weight": torch.ones(2, 1, 3), "conv.bias": torch.zeros(2)}, "s.safetensors")
    series = ["many_nets:Series", "--state", "s.safetensors", "--data", "own.npz"]
    error = said(capsys, *series)
    assert "many_nets:Series cannot take examples of shape (4,) and type float32; " in error
    assert "it takes them with a channel, x[:, None]" in error
    save_file({"weight": torch.ones(2, 7), "bias": torch.zeros(2)}, "w.safetensors")
    error = said(capsys, "many_nets:wide", "--state", "w.safetensors", "--data", "own.npz")
    assert "cannot take examples of shape (4,) and type float32 (RuntimeError: mat1" in error
    np.savez("labels.npz", x=np.zeros((3, 4), np.float32), y=np.array([0, 1, 2]))
    error = said(capsys, "many_nets:tensor", *NAMED[1:3], "--data", "labels.npz")
    assert "labels go up to 2, but many_nets:tensor has 2 classes, 0 to 1" in error


def test_weights_that_do_not_fit_name_a_few(many: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("deep_nets.py").write_text(
        "from torch import nn\n"
        "def build(): return nn.Sequential(*(nn.Linear(4, 4) for _ in range(40)))\n"
        "class Tied(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a, self.b = nn.Linear(4, 2), nn.Linear(4, 2)\n"
        "        self.b.weight = self.a.weight\n"
        "    def forward(self, x): return self.a(x)\n"
    )
    weights = nn.Sequential(*(nn.Linear(4, 4) for _ in range(40))).state_dict()
    deep = ["deep_nets:build", "--state", "deep.safetensors", "--data", "own.npz"]
    save_file({f"model.{name}": value for name, value in weights.items()}, "deep.safetensors")
    error = said(capsys, *deep)
    assert "the file lacks 80 of 80 tensors (0.weight, 0.bias, 1.weight, 1.bias, ... 76" in error
    assert "take 'model.' off the file's names" in error
    save_file(weights | {"3.weight": torch.zeros(4, 5)}, "deep.safetensors")
    error = said(capsys, *deep)
    assert "1 of 80 tensors have another shape (3.weight): 3.weight is (4, 4), the" in error
    save_file(weights | {"3.weight": torch.zeros(4, 4).long()}, "deep.safetensors")
    assert "another type of numbers (3.weight)" in said(capsys, *deep)
    save_file(weights | {"3.weight": torch.zeros(4, 4).double()}, "deep.safetensors")
    assert "3.weight is torch.float32, the file's torch.float64" in said(capsys, *deep)
    for prefix in ("", "module.", "_orig_mod."):  # what wrappers add is the same network
        save_file({f"{prefix}{name}": v for name, v in weights.items()}, "deep.safetensors")
        loaded = load_network(deep[0], Path("deep.safetensors")).state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in weights.items())
    # save_model keeps tied weights once
    tied = {"a.weight": torch.ones(2, 4), "a.bias": torch.ones(2), "b.bias": torch.zeros(2)}
    save_file(tied, "tied.safetensors")
    network = load_network("deep_nets:Tied", Path("tied.safetensors"))
    assert torch.equal(network.get_parameter("b.weight"), torch.ones(2, 4))
    del tied["b.bias"]
    save_file(tied, "tied.safetensors")
    with pytest.raises(ValueError, match=r"the file lacks 1 of 4 tensors \(b.bias\)"):
        load_network("deep_nets:Tied", Path("tied.safetensors"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "own.npz"], "--data needs --eps"),
        (["--data", "own.npz", "--eps", "0"], "--eps 0 must be a finite number above 0"),
        (["--data", "own.npz", "--eps", "nan"], "--eps nan must be"),
        (["--data", "nothing.npz", "--eps", "1"], "there is no file or folder nothing.npz"),
        (["--config", "rst_ecg20"], "(did you mean 'rst_ecg200'?)"),
        (["--config", "rst_ecg200", "--minimal", "-1"], "--minimal -1 must be at least 0"),
        (["--config", "rst_ecg200", "--steps", "0"], "--steps 0 must be at least 1"),
        (["--config", "rst_ecg200", "--seed", "-3"], "--seed -3 must be a whole number from 0"),
    ],
)
def test_wrong_options_are_refused_before_torch_is_imported(
    own: Path, options: list[str], message: str
) -> None:
    code = (
        "import sys; from robustprune.cli import main; status = main(sys.argv[1:]);"
        "print(status, 'torch' in sys.modules)"
    )
    named = ["evaluate", *NAMED[:3], *options]
    done = subprocess.run([sys.executable, "-c", code, *named], capture_output=True, text=True)
    assert done.stdout.split() == ["2", "False"], done.stderr
    assert message in done.stderr


# -- weights and data in other forms --------------------------------------------------------------


@pytest.mark.parametrize("form", ["plain", "checkpoint", "wrapped"])
def test_weights_of_torch_save_are_read_without_running_them(
    own: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    state = {"weight": W, "bias": torch.zeros(2)}
    wrapped = {f"module.{name}": value for name, value in state.items()}
    content = {"plain": state, "checkpoint": {"epoch": 3, "state_dict": state}, "wrapped": wrapped}
    torch.save(content[form], "own.pt")
    loaded = load_network("own_nets:build", Path("own.pt")).state_dict()
    assert torch.equal(loaded["weight"], W)


def test_files_of_torch_save_that_hold_more_are_refused(
    own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    named = [NAMED[0], "--state", "own.pt", *NAMED[3:]]
    torch.save(nn.Linear(4, 2), "own.pt")  # a pickle of a class
    assert "save the weights alone, with torch.save(model.state_dict(), path)" in said(
        capsys, *named
    )
    torch.save({"epoch": 3, "losses": [1.0]}, "own.pt")
    assert "own.pt holds epoch, losses, and no state dictionary" in said(capsys, *named)
    torch.save({"weight": W, "bias": torch.zeros(2)}, "own.pt")
    monkeypatch.setenv("ROBUSTPRUNE_MAX_GB", "1e-8")
    with pytest.raises(ValueError, match=r"own\.pt: its content would take"):
        load_network("own_nets:build", Path("own.pt"))


def test_a_function_may_load_its_weights_and_take_arguments(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own_nets.py").write_text(
        "from torch import nn\nfrom safetensors.torch import load_file\n"
        "def build(path, bias=True):\n"
        "    net = nn.Linear(4, 2, bias=bias)\n"
        "    net.load_state_dict(load_file(path), strict=bias)\n"
        "    return net\n"
    )
    r, _ = distances()
    command = ["evaluate", NAMED[0], *NAMED[3:], "--eps", "0.3", "--attacks", "--minimal", "0"]
    assert main([*command, "--json", "--set", "model.options.path=own.safetensors"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["robust"]["worst"]["value"] == pytest.approx(float((r > 0.3).double().mean()))
    assert main(command) == 2
    assert "needs an argument: path; give --set 'model.options={path" in capsys.readouterr().err


def test_evaluate_reads_a_table_with_named_columns(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load("own.npz") as arrays:
        x, y = arrays["x"], arrays["y"]
    rows = [
        ",".join(map(str, [*row[:2], label, *row[2:]])) for row, label in zip(x, y, strict=True)
    ]
    Path("own.csv").write_text("\n".join(["a,b,kind,c,d", *rows]))
    command = ["evaluate", *NAMED[:3], "--data", "own.csv", "--label", "kind", "--eps", "0.3"]
    command += ["--attacks", "--minimal", "0", "--json"]
    assert main([*command, "--layout", "flat"]) == 0
    found = json.loads(capsys.readouterr().out)
    r, _ = distances()
    assert found["robust"]["worst"]["value"] == pytest.approx(float((r > 0.3).double().mean()))
    assert main(command) == 2  # (1, 4) for a network that takes (4,)
    assert (
        "it takes them flat, x.reshape(len(x), -1): set the option layout to flat"
        in capsys.readouterr().err
    )


def test_smoothing_asks_for_no_eps(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["certify", *NAMED, "--method", "none", "--sigma", "0.25", "--n", "200"]
    assert main([*command, "--out", "a", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["eps"] is None
    assert found["methods"]["smoothing"]["beyond_eps"] is None
    assert main([*command, "--out", "b"]) == 0
    shown = capsys.readouterr().out
    assert "smoothing: median radius" in shown
    assert "eps" not in shown
    assert main(["certify", *NAMED, "--sigma", "0.25"]) == 2  # a proof needs it
    assert "--data needs --eps" in capsys.readouterr().err
