"""Caches of bounded size against a literal computation, and identities that must hold."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from robustprune.lm import (
    EvictingCache,
    Eviction,
    HeavyHitters,
    Merging,
    QHitter,
    RandomTokens,
    Recent,
    SnapKV,
    Tova,
    evicting,
    heavy_hitters,
)
from robustprune.lm.eviction import Held, chosen

SIZES = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "bos_token_id": 1, "eos_token_id": 39, "pad_token_id": 0,
}  # fmt: skip
RULES: list[Eviction] = [
    HeavyHitters(3, 2),
    HeavyHitters(3, 2, "mean"),
    Recent(4, sinks=0),
    Recent(3, sinks=2),
    Tova(5),
    QHitter(2, 1, 2, bits=4),
    RandomTokens(3, 2),
]


def llama(**options: object) -> PreTrainedModel:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**SIZES, **options}))
    for weight in model.parameters():  # attention of a fresh network is nearly uniform
        weight.data *= 4 if weight.ndim == 2 else 1
    return model.eval()


def others() -> dict[str, Callable[[], PreTrainedModel]]:
    mistral = {**SIZES, "sliding_window": None}
    gpt2 = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}
    ends = {"bos_token_id": 1, "eos_token_id": 39, "pad_token_id": 0}
    return {
        "llama": llama,
        "mistral": lambda: MistralForCausalLM(MistralConfig(**mistral)).eval(),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)).eval(),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**gpt2, **ends)).eval(),
    }


def stepwise(
    model: PreTrainedModel, tokens: Tensor, new_cache: Callable[[], EvictingCache]
) -> Tensor:
    """Logits of every token, given one after the other."""
    cache = new_cache()
    with torch.no_grad():
        rows = [
            model(tokens[:, t : t + 1], cache=cache).logits[:, 0] for t in range(tokens.shape[1])
        ]
    return torch.stack(rows, dim=1)


def literal(
    model: PreTrainedModel,
    tokens: Tensor,
    keep: Callable[[list[list[float]], list[int]], list[int]],
) -> Tensor:
    """Logits of one sequence where each head of each layer attends to a set of its own: whole
    forward passes without a cache, one mask a head, and sets that are kept in plain lists.

    `keep(weights, alive)` has the attention of this head's queries to each token, a list for each
    query so far, and the tokens that are alive; it returns those that stay.
    """
    config, T = model.config, tokens.shape[1]
    heads, group = (
        config.num_key_value_heads,
        config.num_attention_heads // config.num_key_value_heads,
    )
    seen = torch.zeros(config.num_hidden_layers, heads, T, T, dtype=torch.bool)
    alive = [[[] for _ in range(heads)] for _ in range(config.num_hidden_layers)]
    history: list[list[list[list[float]]]] = copy.deepcopy(alive)
    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")
    caught: dict[int, Tensor] = {}

    def mask_of_its_own(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        mask = seen[module.layer_idx].repeat_interleave(group, 0)[None, :, :now, :now]
        added = torch.zeros(mask.shape).masked_fill(~mask, -math.inf)
        return args, {**kwargs, "attention_mask": added}

    def catch(module: nn.Module, args: tuple, output: tuple) -> None:
        caught[module.layer_idx] = output[1][0]

    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(mask_of_its_own, with_kwargs=True)
        layer.self_attn.register_forward_hook(catch)
    rows = []
    for t in range(T):
        now = t + 1
        for layer, places in enumerate(alive):
            for head, held in enumerate(places):
                held.append(t)
                seen[layer, head, t, held] = True
        with torch.no_grad():
            rows.append(model(tokens[:, :now], use_cache=False).logits[0, -1])
        for layer, places in enumerate(alive):
            for head in range(heads):
                weights = caught[layer][head * group : (head + 1) * group, -1].sum(0)
                history[layer][head].append(weights.tolist())
                places[head] = keep(history[layer][head], places[head])
    return torch.stack(rows)


def h2o(heavy: int, recent: int, *, mean: bool) -> Callable:
    def keep(history: list[list[float]], alive: list[int]) -> list[int]:
        score = {
            j: sum(row[j] for row in history[j:]) / (len(history) - j if mean else 1) for j in alive
        }
        old, new = alive[:-recent], alive[-recent:]
        return sorted(sorted(old, key=lambda j: -score[j])[:heavy]) + new

    return keep


@pytest.mark.parametrize("mean", [False, True])
def test_heavy_hitters_equal_a_literal_computation_with_grouped_queries(mean: bool) -> None:
    model, tokens = (
        llama(),
        torch.randint(2, 39, (1, 14), generator=torch.Generator().manual_seed(1)),
    )
    truth = literal(model, tokens, h2o(3, 2, mean=mean))
    with evicting(model, HeavyHitters(3, 2, "mean" if mean else "sum")) as new_cache:
        found = stepwise(model, tokens, new_cache)[0]
    assert torch.allclose(found, truth, atol=1e-5)
    with torch.no_grad():
        assert not torch.allclose(model(tokens).logits[0, -1], truth[-1], atol=1e-3)


def test_sinks_and_recent_equal_a_literal_computation() -> None:
    model, tokens = (
        llama(),
        torch.randint(2, 39, (1, 14), generator=torch.Generator().manual_seed(2)),
    )

    def keep(history: list[list[float]], alive: list[int]) -> list[int]:
        return [j for j in alive if j < 2 or j > len(history) - 1 - 3]

    with evicting(model, Recent(3, sinks=2)) as new_cache:
        found = stepwise(model, tokens, new_cache)[0]
    assert torch.allclose(found, literal(model, tokens, keep), atol=1e-5)


def test_heads_of_tova_keep_the_same_tokens_and_lose_what_is_least_attended() -> None:
    model, tokens = llama(), torch.randint(2, 39, (2, 12))
    with evicting(model, Tova(4)) as new_cache:
        cache = new_cache()
        for t in range(12):
            before = [held.clone() for held in cache.positions]
            with torch.no_grad():
                weights = model(
                    tokens[:, t : t + 1], cache=cache, output_attentions=True
                ).attentions
            for layer, held in enumerate(cache.positions):
                assert (held == held[:, :1]).all()
                if t < 4:
                    continue
                for n in range(2):
                    last = weights[layer][n, :, 0].mean(0)
                    gone = set(before[layer][n, 0].tolist()) | {t}
                    order = [*before[layer][n, 0].tolist(), t]
                    gone -= set(held[n, 0].tolist())
                    assert gone == {order[int(last.argmin())]}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{type(rule).__name__}")
def test_a_cache_never_holds_more_than_its_budget_and_says_how_many_bytes(rule: Eviction) -> None:
    model, tokens = llama(), torch.randint(2, 39, (3, 20))
    with evicting(model, rule) as new_cache, torch.no_grad():
        cache = new_cache()
        model(tokens[:, :9], cache=cache)
        size = rule.size(9)
        assert size is not None
        for t in range(9, 20):
            model(tokens[:, t : t + 1], cache=cache)
            for layer in cache.layers:
                assert layer.keys.shape == layer.values.shape == (3, 2, size, 4)
            assert (
                cache.nbytes == 2 * 2 * 3 * 2 * size * 4 * 4
            )  # layers, keys and values, …, floats
        assert cache.get_seq_length() == 20
        for held in cache.positions:
            assert (held[..., -1] == 19).all() or isinstance(rule, Tova)
            assert (held.diff(dim=-1) > 0).all()


@pytest.mark.parametrize("name", list(others()))
@pytest.mark.parametrize("beams", [1, 3])
def test_a_budget_for_everything_changes_no_token(name: str, beams: int) -> None:
    torch.manual_seed(0)
    model = others()[name]()
    tokens = torch.tensor([[0, 0, 1, 5, 9], [1, 7, 3, 30, 22]])
    inputs = {"input_ids": tokens, "attention_mask": (tokens > 0).long()}
    asked = {**inputs, "max_new_tokens": 12, "num_beams": beams, "do_sample": False}
    plain = model.generate(**asked)
    for rule in (HeavyHitters(40, 10), Recent(60), SnapKV(60, window=2), Tova(60)):
        with evicting(model, rule):
            assert torch.equal(model.generate(**asked), plain)
    assert torch.equal(model.generate(**asked), plain)


def test_a_cache_is_used_also_where_the_config_says_no() -> None:
    model, tokens = (
        llama(),
        torch.randint(2, 39, (1, 8), generator=torch.Generator().manual_seed(3)),
    )
    asked = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    plain = model.generate(tokens, **asked)
    model.generation_config.use_cache = False
    with evicting(model, Recent(60)):
        assert torch.equal(model.generate(tokens, **asked), plain)
        with pytest.raises(ValueError, match="leaves no cache"):
            model.generate(tokens, use_cache=False, **asked)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{type(rule).__name__}")
def test_padding_changes_nothing(rule: Eviction) -> None:
    model = llama()
    long, short = [1, 8, 20, 33, 4, 17, 9, 11], [1, 30, 12, 6]
    padded = torch.tensor([long, [0] * 4 + short])
    asked = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": None}
    with evicting(model, rule):
        both = model.generate(padded, attention_mask=(padded > 0).long(), **asked)
        for row, alone in zip(both, (long, short), strict=True):
            found = model.generate(torch.tensor([alone]), **asked)
            assert row[8:].tolist() == found[0, len(alone) :].tolist()


def test_padding_is_no_neighbour_of_a_token() -> None:
    """SnapKV averages over neighbours, of which the first token has none before it, and the last
    one before the window none after it."""
    given = [0.5, 0.2, 0.2, 0.35, 0.3, 0.3, 1.0]

    def kept(pads: int) -> list[int]:
        attention = torch.tensor([0.0] * pads + given).view(1, 1, 1, 1, -1)
        positions = torch.tensor([-1] * pads + list(range(7))).view(1, 1, -1)
        part, flat = torch.zeros(1, 1, pads + 7, 2), attention[:, :, 0, 0]
        held = Held(part, part, flat, flat, positions, attention, pads + 7, prompt=True)
        found = chosen(SnapKV(3, window=1, kernel=3), held)
        assert found is not None
        return positions.gather(-1, found).flatten().tolist()

    # three times the averages: 0.7, 0.9, 0.75, 0.85, 0.95, 0.6
    assert kept(0) == kept(1) == kept(4) == [1, 4, 6]


def test_a_beam_keeps_its_own_cache() -> None:
    model, tokens = llama(), torch.randint(2, 39, (3, 10))
    order = torch.tensor([2, 0, 0])
    for bits in (None, 4):
        with evicting(model, HeavyHitters(2, 2), bits=bits) as new_cache, torch.no_grad():
            cache, other = new_cache(), new_cache()
            model(tokens, cache=cache)
            cache.reorder_cache(order)
            model(tokens[order], cache=other)
            found = model(torch.full((3, 1), 7), cache=cache).logits
            assert torch.equal(found, model(torch.full((3, 1), 7), cache=other).logits)
            assert all(map(torch.equal, cache.positions, other.positions))


def test_the_prompt_is_cut_once_by_snapkv() -> None:
    model, tokens = llama(), torch.randint(2, 39, (1, 12))
    with evicting(model, SnapKV(6, window=3, kernel=3)) as new_cache, torch.no_grad():
        cache = new_cache()
        weights = model(tokens, cache=cache, output_attentions=True).attentions
        for layer, held in enumerate(cache.positions):
            for head in range(2):
                rows = weights[layer][0, 2 * head : 2 * head + 2, -3:].sum((0, 1)).tolist()
                pooled = [sum(rows[max(j - 1, 0) : min(j + 2, 9)]) / 3 for j in range(9)]
                best = sorted(range(9), key=lambda j: -pooled[j])[:3]
                assert held[0, head].tolist() == [*sorted(best), 9, 10, 11]
        for _ in range(4):
            model(torch.tensor([[5]]), cache=cache)
        assert cache.positions[0].shape[-1] == 10


def test_places_in_the_cache_only_matter_where_something_was_left_out() -> None:
    model, tokens = llama(), torch.randint(2, 39, (1, 30))
    with evicting(model, Recent(6, sinks=0)) as new_cache:
        absolute = stepwise(model, tokens, new_cache)
    with evicting(model, Recent(6, sinks=0), positions="cache") as new_cache:
        assert torch.allclose(stepwise(model, tokens, new_cache), absolute, atol=1e-5)
    with evicting(model, Recent(6, sinks=2)) as new_cache:
        absolute = stepwise(model, tokens, new_cache)
    with evicting(model, Recent(6, sinks=2), positions="cache") as new_cache:
        assert not torch.allclose(stepwise(model, tokens, new_cache), absolute, atol=1e-3)


def test_places_in_the_cache_are_those_of_a_text_without_what_was_evicted() -> None:
    """In a network of one layer, keys do not depend on what was evicted before them."""
    model, tokens = llama(num_hidden_layers=1), torch.randint(2, 39, (1, 20))
    with evicting(model, Recent(5, sinks=2), positions="cache") as new_cache:
        found = stepwise(model, tokens, new_cache)[0, -1]
    left = torch.cat([tokens[:, :2], tokens[:, -6:]], dim=1)  # 2 sinks, 5 recent, and itself
    with torch.no_grad():
        assert torch.allclose(found, model(left).logits[0, -1], atol=1e-5)


def test_few_bits_hold_less_and_stay_near() -> None:
    model, tokens = llama(), torch.randint(2, 39, (2, 24))
    sizes, logits = {}, {}
    for bits in (None, 8, 4):
        with evicting(model, HeavyHitters(6, 6), bits=bits) as new_cache, torch.no_grad():
            cache = new_cache()
            for t in range(24):
                logits[bits] = model(tokens[:, t : t + 1], cache=cache).logits
            sizes[bits] = cache.nbytes
    rows = 2 * 2 * 2 * 2 * 12  # layers, keys and values, sequences, heads, tokens
    assert sizes == {None: rows * 4 * 4, 8: rows * (4 + 8), 4: rows * (2 + 8)}
    errors = {bits: float((logits[bits] - logits[None]).abs().max()) for bits in (8, 4)}
    assert 0 < errors[8] < errors[4]


def test_merging_changes_values_and_is_repeatable() -> None:
    model, tokens = llama(), torch.randint(2, 39, (2, 20))
    found = []
    for merging in (Merging(spread=4), Merging(spread=4), None):
        with evicting(model, Recent(5, sinks=2), merging=merging) as new_cache:
            found.append(stepwise(model, tokens, new_cache))
            assert torch.equal(found[-1], stepwise(model, tokens, new_cache))
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2], atol=1e-3)


def test_the_model_is_as_before() -> None:
    model = llama()
    before = model.config._attn_implementation
    with heavy_hitters(model, heavy=0.2, recent=0.2):
        with heavy_hitters(model, heavy=2, recent=2):
            model.generate(torch.tensor([[1, 5, 9, 3]]), max_new_tokens=2)
        with pytest.raises(ValueError, match="no token"):  # a prompt of one
            model.generate(torch.tensor([[1]]), max_new_tokens=2)
    assert "generate" not in vars(model)
    assert model.config._attn_implementation == before
    assert not any(module._forward_hooks for module in model.modules())


def test_two_open_contexts_count_attention_once() -> None:
    model, tokens = llama(), torch.randint(2, 39, (1, 9))
    with evicting(model, HeavyHitters(3, 2)) as new_cache:
        once = stepwise(model, tokens, new_cache)
        with evicting(model, Recent(3)):
            assert torch.equal(stepwise(model, tokens, new_cache), once)


def test_a_cache_can_be_used_again_after_a_reset() -> None:
    model, tokens = llama(), torch.randint(2, 39, (1, 9))
    for bits in (None, 8):
        with evicting(model, HeavyHitters(3, 2), bits=bits) as new_cache, torch.no_grad():
            cache = new_cache()
            first = model(tokens, cache=cache).logits
            cache.reset()
            assert torch.equal(model(tokens, cache=cache).logits, first)


@pytest.mark.parametrize("length", [50, 100, 1000])
def test_a_share_is_rounded_down_as_it_is_written(length: int) -> None:
    for percent in range(1, 100):
        rule = Recent(percent / 100, sinks=1)
        assert rule.size(length) == 1 + percent * length // 100


def test_half_precision() -> None:
    model, tokens = llama().to(torch.bfloat16), torch.randint(2, 39, (1, 16))
    for bits in (None, 4):
        with evicting(model, HeavyHitters(4, 2), bits=bits) as new_cache:
            found = stepwise(model, tokens, new_cache)
        assert found.dtype == torch.bfloat16
        assert bool(found.isfinite().all())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: HeavyHitters(1.5, 2), "heavy=1.5"),
        (lambda: HeavyHitters(-1, 2), "heavy=-1"),
        (lambda: HeavyHitters(1, 2, "median"), "sum or mean"),
        (lambda: Recent(3, sinks=-1), "sinks"),
        (lambda: SnapKV(8, window=0), "window"),
        (lambda: SnapKV(8, kernel=4), "odd"),
        (lambda: SnapKV(8, window=8).size(20), "raise `kept`"),
        (lambda: SnapKV(8, window=32).size(20), "raise `kept`"),  # all are in the window
        (lambda: HeavyHitters(0.1, 0.1).size(5), "no token"),
        (lambda: QHitter(share=2.0), "share"),
        (lambda: Merging(spread=0), "spread"),
        (lambda: EvictingCache(llama(), Recent(4), bits=3), "bits=3"),
        (lambda: EvictingCache(llama(), Recent(4), positions="relative"), "absolute or cache"),
        (lambda: EvictingCache(others()["gpt2"](), Recent(4), positions="cache"), "gpt2"),
        (
            lambda: EvictingCache(
                MistralForCausalLM(MistralConfig(**{**SIZES, "sliding_window": 8})), Recent(4)
            ),
            "sliding_attention",
        ),
    ],
)  # fmt: skip
def test_wrong_options_are_told(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_a_cache_outside_its_context_is_told() -> None:
    model, tokens = llama(), torch.randint(2, 39, (1, 6))
    cache = EvictingCache(model, Recent(3))
    model(tokens, cache=cache)
    with pytest.raises(RuntimeError, match="inside `with"):
        model(tokens[:, :1], cache=cache)
    with pytest.raises(NotImplementedError, match="assistant"):
        cache.crop(-1)
