"""What the code must never do, whatever a file or a config says."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from robustprune.run.config import Config, load_config, parse_config
from robustprune.tasks import load_task

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path
    for folder in ("attacks", "robustprune", "scripts")
    for path in (ROOT / folder).rglob("*.py")
)
#: modules that turn bytes into whatever objects the bytes ask for, or text into code
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "code"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with the dotted name of what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def constant(call: ast.Call, keyword: str) -> object:
    """The value of a keyword argument; None where it is not given."""
    value = next((k.value for k in call.keywords if k.arg == keyword), None)
    return value.value if isinstance(value, ast.Constant) else None


def complaints(source: str) -> list[str]:
    """What a source does that it must not."""
    tree, found = ast.parse(source), []
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [str(node.module)]
        found += [f"imports {n}" for n in names if n.partition(".")[0] in UNSAFE_MODULES]
    for name, call in calls(tree):
        unsafe = (
            name in UNSAFE_CALLS
            or name in ("torch.save", "torch.jit.load", "torch.export.load", "torch.hub.load")
            or (name == "torch.load" and constant(call, "weights_only") is not True)
            or (
                name.endswith((".from_pretrained", "Classification.from_config"))
                and constant(call, "trust_remote_code") is not False
            )
            or (name in ("np.load", "numpy.load") and constant(call, "allow_pickle") is not False)
            or name in ("yaml.unsafe_load", "yaml.full_load", "yaml.load_all")
            or (name == "yaml.load" and "Loader=_Plain" not in ast.unparse(call))
            or constant(call, "shell") is True
            or name == "os.system"
        )
        found += [f"calls {name}"] if unsafe else []
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled_and_no_text_is_run(path: Path) -> None:
    assert complaints(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from dill.source import x",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f)",
        "AutoModel.from_pretrained(f)",
        "AutoModel.from_pretrained(f, trust_remote_code=True)",
        "yaml.load(f, Loader=yaml.Loader)",
        "yaml.unsafe_load(f)",
        "eval(x)",
        "subprocess.run(x, shell=True)",
    ],
)
def test_the_watch_sees_what_it_watches_for(source: str) -> None:
    assert complaints(source) != []


def places_of(ending: str) -> list[str]:
    """The files in which a function of such a name is called with anything but a constant."""
    return [
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        for name, call in calls(ast.parse(path.read_text(encoding="utf-8")))
        if name.endswith(ending) and not (call.args and isinstance(call.args[0], ast.Constant))
    ]


def test_a_users_code_is_imported_only_from_the_command_line() -> None:
    """`robustprune` and `deploy.export` import the names that they list themselves. The name of a
    user's function comes from the arguments of `evaluate`, `certify` and `verify`, or from a
    config after `check_code_is_named` (see `test_a_config_names_no_code`)."""
    assert sorted(set(places_of("import_module"))) == [
        "robustprune/__init__.py",
        "robustprune/deploy/export.py",
        "robustprune/pipeline/own_network.py",
    ]
    assert places_of("load_network") == [
        "robustprune/cli/own.py",
        "robustprune/pipeline/own_verify.py",
    ]
    assert places_of("call_function") == [
        "robustprune/pipeline/networks.py",
        "robustprune/pipeline/own_network.py",
    ]


@pytest.mark.parametrize(
    "name",
    ["../x", "..", ".", "", "a/b", "/etc", "a\\b", "-x", "a\nb", "x\n", "a\0b", "~", "$HOME"],
)
def test_a_run_name_stays_in_its_folder(name: str) -> None:
    with pytest.raises(ValueError, match="name="):
        parse_config({"name": name})


@pytest.mark.parametrize("name", ["../secret", "..", "a/b", "/etc/passwd", "", "a\\b", ".hidden"])
def test_a_data_name_stays_in_its_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no name of a UCR set"):
        load_task(f"ucr:{name}", data_dir=tmp_path)


@pytest.mark.parametrize("field", ["model.name", "task.name"])
@pytest.mark.parametrize("value", ["os:system", "os.system", "../evil.py", "robustprune.cli:main"])
def test_a_config_names_no_code(field: str, value: str, tmp_path: Path) -> None:
    from robustprune.pipeline import prepare

    file = tmp_path / "c.yaml"
    file.write_text("{}")
    with pytest.raises(ValueError, match=r"unknown (model|task)|would be imported"):
        prepare(load_config(file, [f"{field}={value}"]), out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "text",
    [
        "name: !!python/object/apply:os.system ['touch evil']",
        "name: !!python/name:os.system",
        "name: !!python/module:os",
        "model: {options: {a: !!python/object/new:pathlib.Path [x]}}",
    ],
)
def test_yaml_makes_no_objects(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match="not valid YAML: could not determine a constructor"):
        load_config(tmp_path / "c.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def test_yaml_that_unfolds_without_end_is_refused(tmp_path: Path) -> None:
    layers = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    (tmp_path / "c.yaml").write_text("\n".join(["a0: &a0 [x]", *layers]))
    with pytest.raises(ValueError, match="aliases"):
        load_config(tmp_path / "c.yaml")


def test_yaml_that_says_two_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("certify: {n: 500}\ncertify: {n: 10}\n")
    with pytest.raises(ValueError, match="certify is given twice; keep one"):
        load_config(tmp_path / "c.yaml")


def test_a_pickled_checkpoint_is_refused_unread(tmp_path: Path) -> None:
    """A state file in torch's own format would be unpickled; here it is a damaged file."""
    from robustprune.run.checkpoint import load_tensors

    torch.save({"w": torch.zeros(2)}, tmp_path / "state.safetensors")
    with pytest.raises(ValueError, match="is damaged"):
        load_tensors(tmp_path / "state.safetensors")


def test_pickled_arrays_are_refused_unread(tmp_path: Path) -> None:
    import numpy as np

    objects = np.array([{"a": 1}], dtype=object)
    arrays = dict.fromkeys(("x_train", "y_train", "x_test", "y_test"), objects)
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match="cannot be read as"):
        load_task("npz", path=tmp_path / "a.npz")


def test_the_largest_seed_works(tmp_path: Path) -> None:
    largest = parse_config({"seed": 2**63 - 1})
    assert isinstance(largest, Config)
    torch.manual_seed(largest.seed + 1)
    with pytest.raises(ValueError, match="seed="):
        parse_config({"seed": 2**63})
