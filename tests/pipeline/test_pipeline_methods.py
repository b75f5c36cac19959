"""Every method through the one pipeline, at a size that takes a second."""

import json
from pathlib import Path

import pytest
import torch

from robustprune import pipeline
from robustprune.pipeline import find_sparse_networks, prepare
from robustprune.pipeline.methods import ROWS
from robustprune.pipeline.plan import planned_trainings
from robustprune.run.config import METHODS, Config, parse_config
from robustprune.run.rundir import RunDir
from robustprune.run.settings import Section
from robustprune.search import SPARSE_METHODS
from robustprune.sparsity import count_kept
from robustprune.sparsity.criteria import CRITERIA

TRAINED = {"lottery", "language", "twin", *SPARSE_METHODS}


def small_with(small: Config, **sections: dict) -> Config:
    tree = small.model_dump()
    for section, fields in sections.items():
        tree[section] = {**tree[section], **fields}
    return parse_config(tree)


def run(config: Config, out: Path) -> tuple[dict, Path]:
    prepared = prepare(config, out=out, quiet=True)
    return find_sparse_networks(prepared), prepared.folder.path


def test_every_name_has_a_row_and_every_row_a_section() -> None:
    assert tuple(ROWS) == METHODS
    for name, row in ROWS.items():
        assert row.name == name
        assert isinstance(getattr(Config(), row.section), Section)
        assert row.title
        assert row.summary
    assert {name for name, row in ROWS.items() if row.trained} == TRAINED
    assert [name for name, row in ROWS.items() if row.section == "one_shot"] == list(CRITERIA)


ONE_EPOCH = {
    "admm": {"epochs": 2, "every": 1, "l1": 1e-3},
    "scores": {"epochs": 1},
    "lottery": {"epochs": 1, "rounds": 2},
    "sparse": {"epochs": 2},
    "twin": {"epochs": 2},
    "language": {"epochs": 1},
    "evaluation": {"steps": 1, "restarts": 1, "curve": False},
}


def test_all_methods_stand_in_one_table(small: Config, tmp_path: Path) -> None:
    search = {"methods": METHODS, "density": (0.3,)}
    held_out = {**small.task.model_dump(), "validation": 0.1}  # Flying Bird+ looks at it
    config = small_with(small, search=search, task=held_out, **ONE_EPOCH)
    metrics, folder = run(config, tmp_path)
    names = [model["name"] for model in metrics["models"]]
    assert names == [t.name for t in planned_trainings(config) if t.measured]
    for method in METHODS:
        assert method in names
        assert (f"{method}-inherit" in names) == (method not in TRAINED)
    assert {"lottery-random", "lottery-reinit"} <= set(names)
    assert metrics["headline"] == "rst"
    by_name = {model["name"]: model for model in metrics["models"]}
    total = by_name["natural"]["total"]
    for name in ("admm", "hydra", "harp", "magnitude", "snip", "woodfisher", "lottery-random"):
        assert abs(by_name[name]["kept"] - 0.3 * total) <= 3  # a ceiling in each of three layers
    assert by_name["harp"]["kept"] == by_name["harp-inherit"]["kept"] == count_kept(0.3, total)
    for name in SPARSE_METHODS:
        assert abs(by_name[name]["kept"] - 0.3 * total) <= 3
        history = (folder / "models" / name / "history.jsonl").read_text().splitlines()
        figures = json.loads(history[-1])["figures"]
        assert {"density", "explored", "dropped", "grown"} <= set(figures)
    history = (folder / "models" / "admm" / "history.jsonl").read_text().splitlines()
    assert {"primal", "dual", "rho"} == set(json.loads(history[-1])["figures"])
    report = (folder / "report.html").read_text()
    assert "How the search went" in report
    kept = by_name["admm-inherit"]["kept"] / total  # ceilings: a little more than was asked for
    assert f"ADMM, 0.3 asked, {kept:.3g} kept, fine-tuned (inherit)" in report
    assert run(config, tmp_path)[0] == metrics  # nothing is repeated, nothing changes


@pytest.mark.parametrize("method", ["admm", "hydra", "lottery", "magnitude"])
def test_the_headline_is_what_is_left_to_use(small: Config, tmp_path: Path, method: str) -> None:
    config = small_with(small, search={"methods": (method,), "density": (0.3,)}, **ONE_EPOCH)
    metrics, _ = run(config, tmp_path)
    assert metrics["headline"] == (method if method in TRAINED else f"{method}-inherit")


@pytest.mark.parametrize("calls", [3, 4, 5])
def test_an_interrupted_lottery_goes_on_alike(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    search = {"methods": ("lottery",), "density": (0.3,)}
    config = small_with(small, search=search, **ONE_EPOCH)
    straight, _ = run(config, tmp_path / "straight")
    save, seen = RunDir.save_model, []

    def die(self: RunDir, *arguments: object) -> None:
        if len(seen) == calls:
            raise KeyboardInterrupt
        seen.append(1)
        save(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(RunDir, "save_model", die)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "broken")
    monkeypatch.setattr(RunDir, "save_model", save)
    assert run(config, tmp_path / "broken")[0] == straight


@pytest.mark.parametrize(
    "objective", ["natural", "trades", "mart", "free", "gaussian", "crown-ibp"]
)
def test_each_objective_goes_with_each_search(
    small: Config, tmp_path: Path, objective: str
) -> None:
    methods = {"methods": ("rst", "admm", "hydra", "lottery", "snip"), "density": (0.3,)}
    loop = {"average": 0.9, "patience": 1}
    config = small_with(
        small,
        objective={"name": objective},
        loop=loop,
        search=methods,
        task={"validation": 0.2},
        **ONE_EPOCH,
    )
    metrics, folder = run(config, tmp_path)
    assert len(metrics["models"]) == 2 + 5 + 4 + 2
    state, _ = RunDir(folder).load_model("admm-inherit")
    assert all(bool(torch.isfinite(value).all()) for value in state.values())


def test_the_dense_network_of_a_run_teaches_its_tickets(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainings of two runs, without all that comes after them."""

    def trained(objective: str) -> RunDir:
        config = small_with(
            small, objective={"name": objective},
            search={"methods": ("magnitude",), "density": (0.3,)}, **ONE_EPOCH,
        )  # fmt: skip
        prepared = prepare(config, out=tmp_path, quiet=True)
        with pytest.raises(KeyboardInterrupt):
            find_sparse_networks(prepared)
        return prepared.folder

    def enough(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "measure_model", enough)
    taught, plain = trained("rslad"), trained("adversarial")
    for name, same in (("adversarial", True), ("magnitude-inherit", False)):
        a, b = (folder.load_model(name)[0] for folder in (taught, plain))
        assert all(torch.equal(a[key], b[key]) for key in a) == same


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"search": {"methods": ("admm_l1",)}}, "method admm_l1 needs admm.l1"),
        ({"search": {"pattern": "2:4", "density": (0.25,)}}, "keeps exactly 0.5"),
        ({"search": {"pattern": "filters"}}, "unknown pattern 'filters'"),
        ({"search": {"methods": ("harp",), "pattern": "2:4"}}, "harp learns each layer's rate"),
        (
            {"search": {"methods": ("hydra",)}, "scores": {"cost": {"conv.weight": 1.0}}},
            "scores.cost has an effect only with method harp",
        ),
        ({"search": {"allocate": {"conv": 0.5}}}, "a density for every masked layer"),
        ({"search": {"allocate": "erk", "pattern": "2:4"}}, "allocate='erk' has no effect"),
        (
            {"search": {"methods": ("lottery",), "allocate": "global", "pattern": "2:4"}},
            "allocate='global' has no effect",
        ),
        ({"search": {"weights": "natural", "fan_scaling": True}}, "leave search.fan_scaling out"),
        (
            {"search": {"methods": ("admm_l1",), "pattern": "row"}, "admm": {"l1": 1e-3}},
            "set search.pattern to element",
        ),
        (
            {"search": {"methods": ("admm",)}, "admm": {"every": 9, "epochs": 8}},
            "admm.every: 9 exceeds admm.epochs: 8",
        ),
        ({"search": {"methods": ("language",), "allocate": "erk"}}, "search.allocate has no eff"),
        (
            {"search": {"methods": ("lottery",), "pattern": "2:4"}, "lottery": {"rounds": 3}},
            "lottery.rounds: 3 has no effect",
        ),
        ({"objective": {"name": "trades"}, "inner": {"attack": "fgsm"}}, "needs inner.attack pgd"),
        ({"objective": {"name": "rslad"}, "inner": {"attack": "fgsm"}}, "needs inner.attack pgd"),
        (
            {"search": {"methods": ("flyingbird_plus",)}},
            "adapts the density to held-out examples; set task.validation",
        ),
        (
            {"search": {"methods": ("static",)}, "sparse": {"drop": 0.2}},
            "drop=0.2 is no option of method static",
        ),
        (
            {"search": {"methods": ("rigl",)}, "sparse": {"first": 0.1}},
            "first=0.1 is the density at the start",
        ),
        (
            {"search": {"methods": ("rigl",), "pattern": "2:4"}, "sparse": {"allocate": "erk"}},
            "sparse.allocate: erk has no effect",
        ),
        ({"loop": {"patience": 3}}, "patience needs a validation split"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_anything_is_written(
    small: Config, tmp_path: Path, sections: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(small_with(small, **sections), out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
