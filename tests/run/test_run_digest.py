"""Digests of configs: those of older runs as they were, those of today by what is set."""

import pytest

from robustprune.run.config import Config, load_config, parse_config
from robustprune.run.digest import digest, digest_v1
from robustprune.run.packaged import config_path

#: by the code that hashed every option
OLD = {
    "admm_cifar10_resnet18": "985c534b",
    "lottery_ecg200": "913d4df4",
    "lowdata_sony": "61c50ccc",
    "methods_ecg200": "ff6012a0",
    "one_shot_ecg200": "88d78578",
    "plm_bert_imdb": "2e1fbbc6",
    "plm_minilm_sst2": "af08e42f",
    "rst_certified_ecg200": "bbbb646a",
    "rst_mnist": "6e7259a2",
    "scores_cifar10_resnet18": "27517245",
}
DEFAULTS = Config().model_dump(mode="json", exclude={"seed"})


def v1(config: Config) -> str:
    return digest_v1(config.model_dump(mode="json", exclude={"seed"}), DEFAULTS)


@pytest.mark.parametrize(("name", "old"), OLD.items())
def test_the_first_digest_is_what_it_was(name: str, old: str) -> None:
    assert v1(load_config(config_path(name))) == old


def test_the_first_digest_counts_options_that_came_later_where_they_are_set() -> None:
    assert v1(Config()) == "080797ee"
    assert v1(parse_config({"task": {"header": True}, "seed": 5})) == "9f9f8dda"
    several = {
        "task": {"layout": "channels_last"},
        "natural": {"optimizer": {"warmup": 1}},
        "model": {"options": {"widths": [3]}},
    }
    assert v1(parse_config(several)) == "296032ad"


@pytest.mark.parametrize("function", [digest, digest_v1])
def test_what_is_new_and_at_its_default_renames_nothing(function: object) -> None:
    tree = {**DEFAULTS, "threat": {"norm": "l2", "eps": 0.1}}
    later = {"later": {"epochs": 3, "optimizer": {"lr": 0.1, "newer": 1}}}
    newer = {"search": {**DEFAULTS["search"], "newer": [1]}}
    optimizer = {**DEFAULTS["natural"]["optimizer"], "newer": None}
    natural = {"natural": {**DEFAULTS["natural"], "optimizer": optimizer}}
    defaults = {**DEFAULTS, **later, **newer, **natural}
    assert function(tree, DEFAULTS) == function({**defaults, **tree, **newer, **natural}, defaults)
    for changed in (
        {"later": {**later["later"], "epochs": 4}},
        {"search": {**newer["search"], "newer": [2]}},
        {"natural": {**natural["natural"], "optimizer": {**optimizer, "newer": 0}}},
    ):
        assert function({**defaults, **changed}, defaults) != function(defaults, defaults)


def test_the_digest_is_of_every_value_that_is_set() -> None:
    trees: list[dict] = [
        {},
        {"search": {"density": [0.25]}},
        {"search": {"allocate": {"conv": 0.5}}},
        {"search": {"allocate": {"conv": 0.25}}},
        {"admm": {"rho": 0.5}},
        {"natural": {"optimizer": {"lr": 0.5}}},
        {"adversarial": {"optimizer": {"lr": 0.5}}},
        {"model": {"options": {"widths": [4]}}},
        {"model": {"options": {"widths": [4], "kernels": [3]}}},
        {"task": {"bounds": [0, 1]}},
    ]
    digests = [parse_config(tree).digest() for tree in trees]
    assert len(set(digests)) == len(trees)
    written = parse_config({"search": {"density": [0.5], "init": "signed_kaiming_constant"}})
    assert written.digest() == digests[0]  # what is written out as it is by default
