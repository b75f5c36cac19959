"""Tickets of causal language models: heads and neurons learned under attack, then removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from attacks import PGD, ThreatModel
from robustprune.deploy import slim_causal
from robustprune.lm import AdversarialText, EmbeddedText, embedded, perplexity, token_loss
from robustprune.minmax import OptimizerSpec
from robustprune.packing import words
from robustprune.search import find_language_ticket, finetune_ticket

ADAM = OptimizerSpec(name="adam", lr=3e-3, weight_decay=0.0)


@pytest.mark.parametrize("granularity", ["head", "neuron"])
@pytest.mark.parametrize("attacked", [False, True])
def test_a_ticket_of_a_target_shape(granularity: Any, attacked: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 20, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
    }  # fmt: skip
    model = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
    rows = (torch.arange(9)[None] * torch.randint(1, 4, (12, 1)) + 1) % 18 + 2  # easy to predict
    text = EmbeddedText(model)
    loader = [
        (embedded(part, text.width), torch.zeros(4, dtype=torch.long)) for part in rows.split(4)
    ]
    threat = ThreatModel("l2", 0.1, support=words)
    attack = PGD(threat, loss=token_loss, steps=2, seed=0) if attacked else None
    objective = AdversarialText(attack)
    ticket = find_language_ticket(
        text, loader, density=0.5, objective=objective, granularity=granularity,
        allocate="layer", dense=(), penalty=None, epochs=2, quiet=True,
    )  # fmt: skip
    tuned = finetune_ticket(ticket, loader, objective, epochs=3, optimizer=ADAM, quiet=True)
    network = tuned.model.network
    small = slim_causal(network)
    found = (small.config.num_key_value_heads, small.config.intermediate_size)
    assert found == ((1, 24) if granularity == "head" else (2, 12))
    assert perplexity(small, rows).value == pytest.approx(perplexity(network, rows).value, rel=1e-5)
    assert perplexity(small, rows).value < perplexity(ticket.model.network, rows).value
    small.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert perplexity(again, rows).value == perplexity(small, rows).value
