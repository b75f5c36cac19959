"""The speed of generation: what is timed, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from robustprune.lm import DecodingSpeed, Recent, decode_speed, evicting

CONFIG = LlamaConfig(
    vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32,
)  # fmt: skip


class Watched(LlamaForCausalLM):
    """Notes what it is given and what it answers."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.given: list[Tensor] = []

    def forward(self, input_ids: Tensor, **kwargs: Any) -> Any:
        self.given.append(input_ids.clone())
        return super().forward(input_ids, **kwargs)


def model() -> Watched:
    torch.manual_seed(0)
    return Watched(CONFIG)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_it_times_greedy_generation(batch_size: int) -> None:
    network = model()
    found = decode_speed({"a": network}, batch_size=batch_size, prompt=5, tokens=4, repeats=2)
    assert len(found["a"].seconds) == 8
    assert all(seconds > 0 for seconds in found["a"].seconds)
    assert network.training  # as it was before
    first = network.given[:6]
    assert [tuple(ids.shape) for ids in first] == [(batch_size, 5)] + [(batch_size, 1)] * 5
    text = network.eval().generate(
        first[0], max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert torch.equal(torch.cat(first, 1), text)
    for one, other in zip(first, network.given[6:12], strict=True):
        assert torch.equal(one, other)  # each turn is the same


def test_speed_is_tokens_over_the_median() -> None:
    speed = DecodingSpeed((0.5, 9.0, 0.25, 0.5), 8, 100)
    assert speed.tokens_per_second == 16
    assert speed.fastest == 32


def test_weights_count_once() -> None:
    network = model()
    tied = LlamaForCausalLM(LlamaConfig(**{**CONFIG.to_diff_dict(), "tie_word_embeddings": True}))
    found = decode_speed({"a": network, "tied": tied}, prompt=1, tokens=1, repeats=1)
    assert found["a"].weights - found["tied"].weights == 4 * 40 * 16


def test_a_cache_that_evicts_is_used() -> None:
    network, made = model(), []
    with evicting(network, Recent(4, sinks=0)) as new_cache:

        def noted() -> object:
            made.append(new_cache())
            return made[-1]

        decode_speed({"a": network}, prompt=8, tokens=6, repeats=2, cache=noted)
    assert [cache.layers[0].keys.shape[2] for cache in made] == [4, 4]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tokens": 0}, "tokens 0 must be at least 1"),
        ({"batch_size": -1}, "batch_size -1"),
        ({"prompt": 20, "tokens": 12}, "a has 32 positions, and prompt 20"),
    ],
)
def test_bad_input(options: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        decode_speed({"a": model()}, **options)
