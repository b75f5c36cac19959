"""A checkpoint is taken up by the same call alone, whichever search it is of."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustprune.search
from attacks import PGD, ThreatModel
from robustprune.minmax import Adversarial, Checkpoint, Natural, OptimizerSpec, Validation
from robustprune.run.checkpoint import load_tensors, save_tensors
from robustprune.search import (
    LotteryTicket,
    Ticket,
    find_lottery_ticket,
    find_scratch_ticket,
    finetune_ticket,
    prune_admm,
    prune_one_shot,
    prune_scores,
    train_control,
    train_sparse,
)

Loader = list[tuple[Tensor, Tensor]]
Options = dict[str, Any]


def attack(eps: float = 0.1, **options: Any) -> PGD:
    return PGD(ThreatModel("linf", eps), steps=1, **options)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def examples(first: float = 0.0) -> Loader:
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    x[0, 0] += first
    return [(x[:8], y[:8]), (x[8:], y[8:])]


def ticket(density: float = 0.5, seed: int = 0) -> LotteryTicket:
    found = prune_one_shot(network(seed), density=density)
    return LotteryTicket(found.masks, found.model, [], network(seed))


SPEC = OptimizerSpec(lr=0.05)
COMMON: Options = {"epochs": 2, "optimizer": SPEC, "quiet": True}
SEARCH: Options = {**COMMON, "density": 0.5, "attack": attack()}
#: what each search is called with, and by option another call
CALLS: dict[str, tuple[Callable[..., Ticket], Options, dict[str, Options]]] = {
    "scratch": (
        find_scratch_ticket,
        {**SEARCH, "model": network(), "loader": examples()},
        {
            "density": {"density": 0.25},
            "seed": {"seed": 5},
            "attack": {"attack": attack(0.9)},
            "pattern": {"pattern": "row"},
            "epochs": {"epochs": 1},
            "model": {"model": network(1)},
            "loader": {"loader": examples(1e-3)},
            "init": {"init": "kaiming_normal"},
            "average": {"average": 0.5},
            "optimizer": {"optimizer": OptimizerSpec(lr=0.05, momentum=0.5)},
            "validation": {"validation": Validation(loader=examples())},
        },
    ),
    "admm": (
        prune_admm,
        {**SEARCH, "model": network(), "loader": examples(), "every": 1},
        {"density": {"density": None, "l1": 0.1}, "rho": {"rho": 1.0}, "every": {"every": 2}},
    ),
    "scores": (
        prune_scores,
        {**SEARCH, "model": network(), "loader": examples()},
        {"density": {"density": 0.2}, "method": {"method": "harp"}},
    ),
    "lottery": (
        find_lottery_ticket,
        {**SEARCH, "model": network(), "loader": examples(), "rounds": 2},
        {
            "density": {"density": 0.2},
            "epochs": {"epochs": 3},
            "rewind": {"rewind": 1},
            "attack": {"attack": None, "objective": Natural()},
            "average": {"average": 0.5},
        },
    ),
    "sparse": (
        train_sparse,
        {**SEARCH, "model": network(), "loader": examples(), "every": 1},
        {
            "method": {"method": "set"},
            "seed": {"seed": 1},
            "drop": {"drop": 0.2},
            "grow": {"grow": "random"},
            "every": {"every": 2},
            "allocate": {"allocate": "igq"},
        },
    ),
    "finetune": (
        finetune_ticket,
        {**COMMON, "ticket": ticket(), "loader": examples(), "objective": Natural()},
        {
            "ticket": {"ticket": ticket(0.25)},
            "objective": {"objective": Adversarial(attack())},
            "mode": {"mode": "full"},
        },
    ),
    "control": (
        train_control,
        {**COMMON, "ticket": ticket(), "loader": examples(), "objective": Natural(),
         "kind": "random"},
        {"ticket": {"ticket": ticket(seed=1)}, "seed": {"seed": 1}, "kind": {"kind": "reinit"}},
    ),
}  # fmt: skip
CASES = [(name, option) for name, (_, _, others) in CALLS.items() for option in others]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Ticket]]:
    """Of each search a folder with the checkpoint of a finished call, and what that returned."""
    found = {}
    for name, (search, options, _) in CALLS.items():
        folder = tmp_path_factory.mktemp(name)
        torch.manual_seed(0)
        result = search(**options, checkpoint=Checkpoint(folder / "c.safetensors", seconds=0))
        found[name] = folder, result
    return found


@pytest.mark.parametrize(("name", "option"), CASES)
def test_another_call_is_refused_by_the_option_that_differs(
    kept: dict[str, tuple[Path, Ticket]], name: str, option: str
) -> None:
    search, options, others = CALLS[name]
    folder, _ = kept[name]
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    other = {**options, **others[option], "checkpoint": Checkpoint(folder / "c.safetensors")}
    named = f"is of another call: {option} is .* there and "
    with pytest.raises(ValueError, match=named) as caught:
        search(**other)
    assert "\n" not in str(caught.value)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize("name", CALLS)
def test_the_same_call_is_taken_up(kept: dict[str, tuple[Path, Ticket]], name: str) -> None:
    """Other places, titles and callbacks make no other call."""
    search, options, _ = CALLS[name]
    folder, before = kept[name]
    seen: list[object] = []
    after = search(
        **options, checkpoint=Checkpoint(folder / "c.safetensors", seconds=9.0),
        title="again", amp=False, on_epoch=seen.append, device="cpu",
    )  # fmt: skip
    assert after.masks == before.masks
    assert after.history == before.history
    assert not seen  # nothing was trained again
    for name_, value in before.model.state_dict().items():
        assert torch.equal(value, after.model.state_dict()[name_])


def test_another_search_is_refused(kept: dict[str, tuple[Path, Ticket]]) -> None:
    place = Checkpoint(kept["scratch"][0] / "c.safetensors")
    named = "search is find_scratch_ticket there and prune_scores here"
    with pytest.raises(ValueError, match=named):
        prune_scores(network(), examples(), **SEARCH, checkpoint=place)


def test_a_file_that_does_not_say_is_refused(
    kept: dict[str, tuple[Path, Ticket]], tmp_path: Path
) -> None:
    """As every version before wrote them."""
    search, options, _ = CALLS["lottery"]
    for file in kept["lottery"][0].iterdir():
        tensors, meta = load_tensors(file)
        del meta["call"]
        save_tensors(tmp_path / file.name, tensors, meta)
    place = Checkpoint(tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match=r"c-round-1-done\.safetensors does not say of which call"):
        search(**options, checkpoint=place)
    for file in tmp_path.glob("*-done*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"c-round-1-of-2\.safetensors does not say of which call"):
        search(**options, checkpoint=place)


def test_a_training_of_more_epochs_goes_on_only_where_nothing_looked_at_the_end(
    tmp_path: Path,
) -> None:
    def tuned(epochs: int, schedule: str, place: Checkpoint | None, every: int = 1) -> Tensor:
        options: Options = {"schedule": schedule, "lr": 0.1}
        check = Validation(loader=examples(), every=every)
        result = finetune_ticket(
            ticket(), examples(), Natural(), epochs=epochs, optimizer=OptimizerSpec(**options),
            validation=check, quiet=True, checkpoint=place,
        )  # fmt: skip
        return torch.cat([p.detach().flatten() for p in result.model.parameters()])

    def place(name: str) -> Checkpoint:
        return Checkpoint(tmp_path / name, seconds=0)

    tuned(2, "constant", place("constant"))
    straight = tuned(4, "constant", None)
    assert torch.equal(tuned(4, "constant", place("constant")), straight)
    with pytest.raises(ValueError, match="epochs is 4 there and 3 here"):
        tuned(3, "constant", place("constant"))
    for schedule, every in (("cosine", 1), ("linear", 1), ("constant", 2)):
        of_both = place(f"{schedule} {every}")
        tuned(2, schedule, of_both, every)
        with pytest.raises(ValueError, match="epochs is 2 there and 4 here"):
            tuned(4, schedule, of_both, every)


def test_every_search_with_a_checkpoint_is_known_by_its_call() -> None:
    """So that no new search forgets it."""
    found = {name: getattr(robustprune.search, name) for name in robustprune.search.__all__}
    searches = {
        name: search
        for name, search in found.items()
        if inspect.isfunction(search) and "loop" in inspect.signature(search).parameters
    }
    assert set(searches) >= {"find_language_ticket", *(c[0].__name__ for c in CALLS.values())}
    for search in searches.values():
        assert search.__code__.co_name == "asked", search
