"""What a prepared run hands to its stages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks import PGD
from robustprune.minmax import Adversarial, Ard, Awp, Iad, Rslad
from robustprune.models import build_model
from robustprune.pipeline.combinations import check_training
from robustprune.pipeline.fit import Fitted, fit_finetuned
from robustprune.pipeline.methods import ROWS, check_methods
from robustprune.pipeline.prepare import planned_run, prepare
from robustprune.pipeline.searches import Sources
from robustprune.run.config import load_config, parse_config
from robustprune.run.packaged import config_names, config_path
from robustprune.search import prune_one_shot
from robustprune.sparsity import full_masks

#: a run of a few seconds
SMALL: dict[str, Any] = {
    "task": {"name": "ecg200", "batch_size": 50},
    "model": {"options": {"widths": [4, 6], "kernels": [5, 3]}},
    "inner": {"steps": 2},
}


def test_building_a_network_leaves_the_callers_random_numbers_alone(tmp_path: Path) -> None:
    config = parse_config({"model": {"options": {"widths": [2], "kernels": [3]}}})
    torch.manual_seed(5)
    before = torch.get_rng_state()
    run = planned_run(config, out=tmp_path, quiet=True)
    assert torch.equal(torch.get_rng_state(), before)
    first = run.fresh_model().state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    again = run.fresh_model(seeded=True).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    torch.manual_seed(config.seed)
    build_model("fcn", run.task, options=config.model.options)
    after = torch.get_rng_state()
    run.fresh_model(seeded=True)
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"search": {"methods": ["rigl"]}, "sparse": {"epochs": 3, "every": 50}},
            "every=50 leaves no update between start=0 and stop=0.75 of 6 steps",
        ),
        (
            {"search": {"methods": ["gradual"]}, "gradual": {"epochs": 2, "every": 9}},
            "every=9 leaves no update between start=0 and stop=0.75 of 4 steps",
        ),
        (
            {"search": {"methods": ["set"]}, "sparse": {"epochs": 1}},
            "every=2 leaves no update between start=0 and stop=1 of 2 steps",
        ),
        (
            {"search": {"methods": ["rigl"], "pattern": "filter"}, "sparse": {"allocate": "row"}},
            "allocate='row' compares the groups of each output",
        ),
        ({"search": {"methods": ["twin"]}, "twin": {"epochs": 1}}, "cut=0.1 of epochs=1 must"),
        (
            {"search": {"methods": ["admm"]}, "finetune": {"modes": []},
             "admm": {"bits": 2, "epochs": 2, "every": 1, "hold": 0.1}},
            "hold=0.1 of epochs=2 must leave epochs before it",
        ),
    ],
)  # fmt: skip
def test_a_search_that_could_not_begin_is_refused_before_the_dense_networks_are_trained(
    tree: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        planned_run(parse_config({**SMALL, **tree}), out=tmp_path, quiet=True)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"objective": {"beta": 2.0}}, "objective.beta: 2.0 has no effect with objective adv"),
        ({"objective": {"name": "trades", "sigma": 1.0}}, "objective.sigma: 1.0 .* with gaussian"),
        ({"objective": {"name": "gaussian", "replays": 2}}, "objective.replays: 2 .* with free"),
        ({"objective": {"name": "rslad", "alpha": 0.5}}, "objective.alpha: 0.5 .* with ard, iad"),
        ({"objective": {"name": "rslad", "temperature": 3}}, "temperature: 3.0 .* with ard, iad"),
        ({"objective": {"name": "iad", "clean": 0.5}}, "objective.clean: 0.5 has no .* rslad"),
        ({"objective": {"name": "free", "awp": 0.01}}, "objective.awp: 0.01 .* and objective free"),
        (
            {"objective": {"awp": 0.01}, "selection": {"method": "loss"}, "search":
             {"methods": ["hydra"]}},
            "objective.awp: 0.01 evaluates each step twice, and selection keeps a state",
        ),
        ({"objective": {"name": "mart", "kappa": 0.1}}, "objective.kappa: 0.1 .* ibp, crown-ibp"),
        (
            {"objective": {"name": "free"}, "inner": {"warmup": 3}},
            "inner.warmup: 3.0 has no effect with objective free",
        ),
        ({"inner": {"synonyms_by": "chance"}}, "inner.synonyms_by: chance has no effect with"),
        (
            {"search": {"weights": "adversarial", "init": "kaiming_normal"}},
            "search.init: kaiming_normal has no effect with search.weights adversarial",
        ),
        (
            {"search": {"methods": ["magnitude"]}, "one_shot": {"batches": 9}},
            "one_shot.batches: 9 has no effect with magnitude; it goes with snip, grasp",
        ),
        (
            {"finetune": {"modes": ["inherit"], "init": "kaiming_uniform"}},
            "finetune.init: kaiming_uniform has no effect with finetune.modes .'inherit'.",
        ),
        (
            {"adversarial": {"optimizer": {"milestones": [3]}}},
            r"adversarial.optimizer: optimizer milestones=\(3,\) and schedule='cosine' do not go",
        ),
        (
            {"finetune": {"optimizer": {"schedule": "step"}}},
            "finetune.optimizer: .* milestones are the epochs of schedule 'step', which needs some",
        ),
        (
            {"natural": {"optimizer": {"name": "adam", "momentum": 0.5}}},
            "natural.optimizer: optimizer momentum=0.5 has no effect with 'adam'",
        ),
        (
            {"selection": {"method": "tracin", "neighbours": 3}},
            "selection.neighbours: 3 has no effect with method tracin; it goes with knn_shapley",
        ),
        (
            {"selection": {"method": "loss", "values": "clean"}},
            "selection.values: clean has no effect with method loss",
        ),
        (
            {"selection": {"method": "loss", "start": 5}, "scores": {"epochs": 5},
             "search": {"methods": ["hydra"]}},
            "selection.start: 5 leaves the 5 epochs of hydra without a selection",
        ),
    ],
)  # fmt: skip
def test_an_option_without_effect_is_refused(
    tree: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        planned_run(parse_config(tree), out=tmp_path, quiet=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", config_names())
def test_every_packaged_config_asks_for_what_it_gets(name: str) -> None:
    """And with each of its methods alone, as --method would."""
    config = load_config(config_path(name))
    for method in (*config.search.methods, "rst", "magnitude"):
        alone = config.search.model_copy(update={"methods": (method,)})
        config_of_one = config.model_copy(update={"search": alone})
        check_training(config_of_one)
        check_methods(config_of_one)


AVERAGED = {
    **SMALL,
    "loop": {"average": 0.5},
    "search": {"density": [0.5], "epochs": 1},
    "scores": {"epochs": 1},
    "admm": {"epochs": 1, "every": 1},
    "lottery": {"epochs": 1, "rounds": 1},
}


@pytest.mark.parametrize(
    "method", ["rst", "admm", "admm_l1", "hydra", "harp", "lottery", "language", "snip"]
)
def test_every_training_of_a_run_is_averaged(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the search: the loop is told of loop.average each time it is called."""
    seen: list[float | None] = []

    class Enough(Exception):
        pass

    def spy(*args: Any, average: float | None = None, **options: Any) -> None:
        seen.append(average)
        raise Enough

    for module in ("ticket", "admm", "lottery", "finetune", "controls"):
        monkeypatch.setattr(f"robustprune.search.{module}.train", spy)
    tree = {**AVERAGED, "admm": {**AVERAGED["admm"], "l1": 1e-4}}
    run = prepare(parse_config(tree), out=tmp_path, quiet=True)
    dense = Fitted("d", "d", run.fresh_model(), full_masks(run.fresh_model()))
    sources = Sources(dense, dense)
    if method == "language":
        monkeypatch.setattr("robustprune.search.language_ticket.gate_groups", lambda *_, **__: {})
        monkeypatch.setattr("robustprune.search.learned_gates.first_scores", lambda *_, **__: {})
    if method == "snip":  # nothing is trained by it, but then
        found = ROWS[method].search(run, 0.5, "snip", sources)
        with pytest.raises(Enough):
            fit_finetuned(run, found.ticket, "inherit")
    else:
        with pytest.raises(Enough):
            ROWS[method].search(run, 0.5, method, sources)
    assert seen == [0.5]


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"name": "ard"}, lambda t, a: Ard(t, a, 1.0, 30.0, warmup=3.0)),
        (
            {"name": "ard", "alpha": 0.5, "temperature": 4},
            lambda t, a: Ard(t, a, 0.5, 4.0, warmup=3.0),
        ),
        ({"name": "iad"}, lambda t, a: Iad(t, a, 1.0, 1.0, warmup=3.0)),
        ({"name": "rslad", "clean": 0.25}, lambda t, a: Rslad(t, a, 0.25, warmup=3.0)),
    ],
)
def test_the_dense_network_teaches_all_that_come_after_it(
    section: dict[str, Any], expected: Any, tmp_path: Path
) -> None:
    tree = {**SMALL, "objective": section, "inner": {"steps": 2, "warmup": 3}}
    run = planned_run(parse_config(tree), out=tmp_path, quiet=True)
    objective, _ = run.robust(2, "adversarial", dense=True)
    assert objective == Adversarial(run.inner_attack(), warmup=3.0)
    with pytest.raises(ValueError, match=f"objective {section['name']} needs a teacher, and"):
        run.robust(2, "hydra")
    teacher = run.fresh_model()
    objective, _ = replace(run, teacher=teacher).robust(2, "hydra")
    assert objective == expected(teacher, run.inner_attack())
    tree = {**tree, "objective": {**section, "awp": 0.01}}
    run = planned_run(parse_config(tree), out=tmp_path, quiet=True)
    objective, _ = replace(run, teacher=teacher).robust(2, "hydra")
    assert objective == Awp(expected(teacher, run.inner_attack()), 0.01)


@pytest.mark.parametrize(("objective", "attacked"), [("natural", False), ("trades", True)])
def test_nothing_is_attacked_under_the_natural_objective(
    objective: str, attacked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SNIP's scores and the choice of epochs: those of the plain loss, to the last bit."""
    tree = {
        **SMALL,
        "objective": {"name": objective},
        "task": {**SMALL["task"], "validation": 0.3},  # type: ignore[dict-item]
        "one_shot": {"weights": "random"},
    }
    run = prepare(parse_config(tree), out=tmp_path, quiet=True)
    calls: list[int] = []
    whole = PGD.__call__

    def counted(self: PGD, *args: Any) -> Tensor:
        calls.append(1)
        return whole(self, *args)

    monkeypatch.setattr(PGD, "__call__", counted)
    sources = Sources(None, None)  # type: ignore[arg-type]
    found = ROWS["snip"].search(run, 0.5, "snip", sources)
    check = run.validation(attacked=True)
    assert check is not None
    _, robust = check(run.fresh_model(), run.device)
    assert bool(calls) == attacked == (robust is not None)
    plain = prune_one_shot(run.fresh_model(), run.loader(), density=0.5, criterion="snip")
    assert (found.ticket.masks == plain.masks) == (not attacked)
