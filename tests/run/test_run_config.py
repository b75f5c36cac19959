"""Configs: complete, checked, overridable."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustprune.models import ModelInputs, build_model
from robustprune.run.config import Config, load_config, parse_config
from robustprune.run.packaged import config_names, config_path
from robustprune.sparsity import maskable_layers

INPUTS = {
    "ecg200": ModelInputs((1, 96), 2),
    "sony_aibo_1": ModelInputs((1, 70), 2),
    "mnist": ModelInputs((1, 28, 28), 10),
    "fashion_mnist": ModelInputs((1, 28, 28), 10),
    "cifar10": ModelInputs((3, 32, 32), 10),
}


def test_the_promised_configs_are_there() -> None:
    cifar = ("admm", "lottery", "scores", "rst", "sparse")
    promised = {f"{method}_cifar10_resnet18" for method in cifar} | {"rst_cifar10_wrn34_10"}
    promised |= {f"{method}_mnist" for method in cifar} | {"rst_fashion_mnist", "rst_sony"}
    promised |= {f"{method}_ecg200" for method in (*cifar, "one_shot", "methods", "lowdata")}
    promised |= {"lowdata_sony", "rst_certified_ecg200", "rst_certified_sony"}
    layerwise = ("ecg200", "sony", "mnist", "cifar10_resnet18")
    promised |= {f"layerwise_{data}" for data in layerwise}
    text = ("sst2", "ag_news", "imdb", "qnli", "qqp", "mnli")
    promised |= {f"plm_bert_{task}" for task in text} | {"plm_minilm_sst2", "lm_stories"}
    assert set(config_names()) == promised


@pytest.mark.parametrize("name", config_names())
def test_every_config_is_valid_and_builds_its_network(name: str) -> None:
    config = load_config(config_path(name))
    assert config.name == name
    # 46 million weights are too slow to draw here; language models have tests of their own
    if "wrn" not in name and "lm_" not in name:
        model = build_model(
            config.model.name, INPUTS[config.task.name], options=config.model.options
        )
        assert maskable_layers(model, dense=config.search.dense)


def test_the_papers_settings() -> None:
    config = load_config(config_path("rst_cifar10_resnet18"))
    assert config.threat.eps == 8 / 255
    assert config.inner.step_size == 2 / 255
    assert (config.inner.steps, config.search.epochs) == (7, 160)
    assert config.search.optimizer.milestones == (80, 120)


def test_overrides_reach_any_field(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("name: mine\n")
    overrides = ["threat.eps=8/255", "search.density=[0.1, 0.2]", "model.options.widths=[8, 8, 8]"]
    config = load_config(file, overrides)
    assert config.threat.eps == 8 / 255
    assert config.search.density == (0.1, 0.2)
    assert config.model.options == {"widths": [8, 8, 8]}


def test_a_config_survives_its_own_yaml(tmp_path: Path) -> None:
    config = load_config(config_path("rst_cifar10_resnet18"), ["search.density=[0.05, 0.1]"])
    file = tmp_path / "c.yaml"
    file.write_text(config.to_yaml())
    assert load_config(file) == config


def test_only_the_seed_is_left_out_of_the_digest() -> None:
    one, seeded = Config(), Config(seed=7)
    other = parse_config({"threat": {"eps": 0.2}})
    assert one.digest() == seeded.digest() != other.digest()


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"serach": {}}, r"unknown key 'serach' \(did you mean 'search'\?\)"),
        ({"search": {"densty": [0.5]}}, r"'search.densty' \(did you mean 'density'\?\)"),
        ({"search": {"optimizer": {"Lr": 1}}}, r"'search.optimizer.Lr' \(did you mean 'lr'\?\)"),
        (
            {"search": {"density": [0.5, 0.0]}},
            r"search.density.1=0.0 is not valid: .*greater than 0",
        ),
        ({"search": {"density": [1.5]}}, "search.density.0=1.5 is not valid"),
        ({"search": {"density": []}}, r"search.density=\[\] is not valid"),
        ({"threat": {"eps": float("nan")}}, "threat.eps=nan is not valid"),
        ({"threat": {"eps": "8/0"}}, "threat.eps='8/0' is not valid"),
        ({"threat": {"norm": "l3"}}, "threat.norm='l3' is not valid"),
        ({"name": "../elsewhere"}, "name='../elsewhere' is not valid"),
        ({"seed": -1}, "seed=-1 is not valid"),
    ],
)
def test_mistakes_are_named_in_one_line(tree: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_config(tree)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("- a\n- b\n", "must hold a mapping"), ("a: [1, 2\n", "not valid YAML"), ("", "NoneType")],
)
def test_bad_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_config(file)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml does not exist"):
        load_config(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("override", ["search.epochs", "=3", "name.deep=3", "search.epochs=[1"])
def test_bad_overrides_are_refused(tmp_path: Path, override: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("name: mine\n")
    with pytest.raises(ValueError, match="override"):
        load_config(file, [override])


@pytest.mark.parametrize("pattern", ["2:4", "1:2", "4:8", "10:16"])
def test_a_pattern_is_no_number_in_base_60(tmp_path: Path, pattern: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"name: mine\nsearch: {{density: [0.5], pattern: {pattern}}}\n")
    assert load_config(file).search.pattern == pattern
    again = load_config(file, [f"search.pattern={pattern}", f"causal.patterns=[{pattern}]"])
    assert (again.search.pattern, again.causal.patterns) == (pattern, (pattern,))
    assert load_config(file, ["seed=12"]).seed == 12


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["task", "search", "density", "optimizer", "lr", "threat", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["task", "search", "threat", "seed", "x"]), json_like))
def test_any_tree_is_taken_or_refused_clearly(tree: dict) -> None:
    message = "config: "
    try:
        parse_config(tree)
    except ValueError as error:
        message = str(error)
    assert message.startswith("config: ")
    assert "\n" not in message
