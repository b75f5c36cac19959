"""Entries of the adversarial pruning benchmark, beside those that it published."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from robustprune.compare import benchmark_entry as entry_of
from robustprune.compare import gather, write_entry
from robustprune.pipeline.methods import ROWS

benchmark_entry = partial(entry_of, methods=ROWS)

TRADES = "Adversarial Training (AT) TRADES"
PGD = "Adversarial Training (AT) PGD"
GLOBAL, LOCAL = "Global Pruning (G)", "Local Pruning (L)"
LIS = "Least Importance Score (LIS)"
LWM = "Lowest Weight Magnitude LWM"


def after(trained: str, locality: str, criterion: str) -> dict[str, str]:
    return {
        "Type of Pipeline:": "A-Methods Pruning After Training",
        "A: Pretraining ": trained,
        "A: Finetuning": trained,
        "A: OneShot (1S) vs Iterative (IT)": "1S",
        "Pruning structure": "Unstructured (US)",
        "Pruning locality": locality,
        "Pruning criterion": criterion,
    }


def before(training: str, shots: str, locality: str, criterion: str) -> dict[str, str]:
    return {
        "Type of Pipeline:": "B-Methods Pruning Before Training",
        "B: Pruning step ": PGD,
        "B: Training step ": training,
        "B: OneShot (1S) vs Iterative (IT)": shots,
        "Pruning structure": "Unstructured (US)",
        "Pruning locality": locality,
        "Pruning criterion": criterion,
    }


# what the benchmark itself says of these methods
PUBLISHED = [
    ("hydra", {"objective": {"name": "trades"}}, after(TRADES, LOCAL, LIS)),
    ("harp", {"objective": {"name": "trades"}}, after(TRADES, GLOBAL, LIS)),
    ("rst", {}, before("None", "1S", LOCAL, LIS)),
    ("lottery", {"search": {"allocate": "global"}}, before(PGD, "IT", GLOBAL, LWM)),
]


def run_of(make_run: Any, method: str, sections: dict[str, Any], **options: Any) -> Path:
    search = {"methods": [method], "density": [0.1], **sections.get("search", {})}
    return make_run(method, **{**sections, "search": search}, **options)


@pytest.mark.parametrize(("method", "sections", "expected"), PUBLISHED)
def test_the_taxonomy_is_the_published_one(
    make_run: Any, method: str, sections: dict[str, Any], expected: dict[str, str]
) -> None:
    run = run_of(make_run, method, sections)
    found = benchmark_entry(gather([run]), key="NAME_Author2026Word", paper="a link")
    start = {"link_to_paper": "a link", "ap_key": "NAME_Author2026Word"}
    assert found["entry"] == {**start, **expected}
    assert list(found["entry"])[:2] == ["link_to_paper", "ap_key"]


def test_admm_and_structure(make_run: Any) -> None:
    sections = {"search": {"pattern": "filter"}}
    run = run_of(make_run, "admm", sections)
    entry = benchmark_entry(gather([run]), key="A_B2026C", paper="")["entry"]
    assert entry["Pruning criterion"] == "Solver Based LWM (SOLWM)"
    assert entry["Pruning structure"] == "Structured (S) filters"


def test_a_teacher_has_no_teacher_itself(make_run: Any) -> None:
    run = run_of(make_run, "hydra", {"objective": {"name": "rslad"}})
    entry = benchmark_entry(gather([run]), key="A_B2026C", paper="")["entry"]
    assert entry["A: Pretraining "] == PGD
    assert entry["A: Finetuning"] == "Adversarial Training (AT) RSLAD"


def test_the_figures_and_what_differs(make_run: Any, tmp_path: Path) -> None:
    run = make_run("hydra", eps=0.031)
    distances = [0.0, 0.02, 8 / 255, 0.04, None]
    (run / "distances.json").write_text(json.dumps({"hydra": distances}))
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["attacks"]["autoattack"] = {"description": "AutoAttack()", "bound": "upper"}
    for model in metrics["models"]:
        model["robust"]["autoattack"] = model["robust"]["worst"]
    (run / "metrics.json").write_text(json.dumps(metrics))
    found = benchmark_entry(gather([run]), key="A_B2026C", paper="")
    (model,) = found["models"]
    assert model["key"] == "A_B2026C_fcn_ecg200_US_90"
    assert (model["clean"], model["autoattack"]) == (84.0, pytest.approx(70.0))
    assert model["fmn"] == pytest.approx(40.0)  # 0.04, and the one that no attack reached
    told = " ".join(found["deviations"])
    assert "not CIFAR10 or SVHN" in told
    assert "sparsities 90%" in told
    assert "AutoAttack is asked for at" not in told
    assert "no distances" not in told
    files = write_entry(found, tmp_path / "entry")
    assert [file.name for file in files] == [
        "taxonomy.json",
        "A_B2026C_fcn_ecg200_US_90.json",
        "results.md",
    ]
    assert json.loads(files[1].read_text()) == distances
    text = files[2].read_text()
    assert "_Robust Accuracy (AA):_ 70.00" in text
    assert "_Robust Accuracy (HO-FMN):_ 40.00" in text


def test_several_seeds_are_told_apart(make_run: Any, tmp_path: Path) -> None:
    runs = [make_run("hydra", seed=seed) for seed in (0, 1)]
    for seed, run in enumerate(runs):
        (run / "distances.json").write_text(json.dumps({"hydra": [float(seed)]}))
    found = benchmark_entry(gather(runs), key="A_B2026C", paper="")
    assert [model["key"][-9:] for model in found["models"]] == ["_90_seed0", "_90_seed1"]
    told = " ".join(found["deviations"])
    assert "2 networks of 1 sparsities" in told
    assert "distances of a part of the test examples" in told
    written = write_entry(found, tmp_path / "entry")[1:3]
    assert [json.loads(file.read_text()) for file in written] == [[0.0], [1.0]]


def test_what_is_missing_is_said(make_run: Any, tmp_path: Path) -> None:
    found = benchmark_entry(gather([make_run()]), key="A_B2026C", paper="")
    assert found["models"][0]["autoattack"] is None
    told = " ".join(found["deviations"])
    assert "no AutoAttack figure" in told
    assert "no distances" in told
    assert "not measured" in write_entry(found, tmp_path / "e")[-1].read_text()


def test_refusals(make_run: Any) -> None:
    hydra, harp = make_run("hydra"), make_run("harp")
    with pytest.raises(ValueError, match="must be NAME_Author2026Word"):
        benchmark_entry(gather([hydra]), key="hydra", paper="")
    with pytest.raises(ValueError, match="different methods or settings"):
        benchmark_entry(gather([hydra, harp]), key="A_B2026C", paper="")
    with pytest.raises(ValueError, match="at least one headline"):
        benchmark_entry([], key="A_B2026C", paper="")
    with pytest.raises(ValueError, match="method 'hydra' is unknown to this version"):
        entry_of(gather([hydra]), key="A_B2026C", paper="", methods={})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "must be an object, got list"),
        ('{"hydra": 3}', "hydra: must be a list, got int"),
        ('{"hydra": [0.1, "0.2"]}', r"hydra\[1\]: must be a number, got str"),
        ('{"hydra": [NaN]}', r"hydra\[0\]: must be finite, got nan"),
        ("{", "is not valid JSON"),
    ],
)
def test_damaged_distances_are_named(make_run: Any, content: str, said: str) -> None:
    run = make_run("hydra")
    (run / "distances.json").write_text(content)
    with pytest.raises(ValueError, match=rf"distances\.json.*{said}"):
        benchmark_entry(gather([run]), key="A_B2026C", paper="")
