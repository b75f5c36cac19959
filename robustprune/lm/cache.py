"""A key-value cache of bounded size, for the causal language models of transformers.

    with heavy_hitters(model, heavy=0.1, recent=0.1):
        model.generate(**inputs)

After each attention, the tokens that a rule (`robustprune.lm.eviction`) does not keep are removed
from memory. The attention of that step still saw them.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, Literal, cast

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from robustprune.lm.cache_layer import EvictingLayer
from robustprune.lm.eviction import Budget, Eviction, HeavyHitters
from robustprune.lm.merging import Merging
from robustprune.lm.rotary import rotary_of

Positions = Literal["absolute", "cache"]


class EvictingCache(Cache):
    """The cache of a model whose layers all keep as many tokens, each head its own ones.

    It works inside `evicting(model, …)` only, which shows it the attention. Give it to
    `model.generate(cache=…)` or to the model; a new text needs a new cache, or `reset()`. Batches
    with padding and beam search work; assisted generation does not, because evicted tokens can't
    come back.

    Args:
        model: the model that will use it.
        rule: which tokens stay.
        bits: 4 or 8 store keys and values rounded, one scale for each token and head; None stores
            them as they are.
        merging: what happens to values of evicted tokens; None drops them.
        positions: "absolute" leaves every token its place in the text; "cache" counts places within
            the cache (Xiao et al. 2024, arXiv 2309.17453, Sec. 3.2), so that a text may be longer
            than the model's positions.

    Raises:
        ValueError: a layer attends through a sliding window, or an option does not suit the model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        rule: Eviction,
        *,
        bits: int | None = None,
        merging: Merging | None = None,
        positions: Positions = "absolute",
    ) -> None:
        config = model.config.get_text_config(decoder=True)
        refuse_windows(config)
        if positions not in ("absolute", "cache"):
            raise ValueError(f"positions={positions!r} is unknown; choose absolute or cache")
        if merging is not None:
            merging.reset()
        rotary = rotary_of(model) if positions == "cache" else None
        super().__init__(
            layers=[
                EvictingLayer(rule, bits=bits, merging=merging, rotary=rotary)
                for _ in range(config.num_hidden_layers)
            ]
        )

    @property
    def nbytes(self) -> int:
        """Return how many bytes keys and values hold in memory, with the scales of `bits`."""
        return sum(layer.nbytes for layer in self._evicting())

    @property
    def positions(self) -> list[Tensor]:
        """Return the places in the text of what each layer holds, (N, H, n); −1 is padding."""
        return [layer.positions for layer in self._evicting()]

    def _evicting(self) -> list[EvictingLayer]:
        return cast(list[EvictingLayer], self.layers)


@contextlib.contextmanager
def evicting(
    model: PreTrainedModel,
    rule: Eviction,
    *,
    bits: int | None = None,
    merging: Merging | None = None,
    positions: Positions = "absolute",
) -> Iterator[Callable[[], EvictingCache]]:
    """Let a model use caches of bounded size.

    Inside, `model.generate` takes a new `EvictingCache` wherever none is given, also if the model's
    generation config has `use_cache=False`, and the model computes its attention step by step
    ("eager"), because the rules look at it. Afterwards the model is as before. Arguments are those
    of `EvictingCache`.

    Yields:
        A function that returns a new cache.

    Raises:
        ValueError: as `EvictingCache`, or the model has no attention that can be watched.
    """

    def new_cache() -> EvictingCache:
        return EvictingCache(model, rule, bits=bits, merging=merging, positions=positions)

    new_cache()  # refuses what does not suit before the model is touched
    attentions = attentions_of(model)
    if not attentions:
        raise ValueError(
            f"{type(model).__name__} has no module of attention with a `layer_idx`, so its cache "
            "can't be watched"
        )
    before = model.config._attn_implementation
    name = name_of_cache(model)
    generate: Callable[..., Any] = cast(Any, model).generate

    def generate_with_cache(*args: Any, **kwargs: Any) -> Any:
        # without it, each step would give all tokens to the cache again
        if not kwargs.setdefault("use_cache", True):
            raise ValueError("use_cache=False leaves no cache to evict from; leave it out")
        if not any(isinstance(value, Cache) for value in kwargs.values()):
            kwargs[name] = new_cache()
        return generate(*args, **kwargs)

    with contextlib.ExitStack() as stack:
        for module in attentions:
            stack.callback(module.register_forward_hook(_observe, with_kwargs=True).remove)
        if before != "eager":
            model.set_attn_implementation("eager")
            stack.callback(model.set_attn_implementation, before)
        nested = model.__dict__.get("generate")
        stack.callback(_put_back, model, nested)
        model.__dict__["generate"] = generate_with_cache
        yield new_cache


@contextlib.contextmanager
def heavy_hitters(
    model: PreTrainedModel,
    heavy: Budget = 0.1,
    recent: Budget = 0.1,
    *,
    score: Literal["sum", "mean"] = "sum",
) -> Iterator[Callable[[], EvictingCache]]:
    """Let a model keep the tokens with most attention (H2O): `evicting` with `HeavyHitters`."""
    with evicting(model, HeavyHitters(heavy, recent, score)) as new_cache:
        yield new_cache


def _observe(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    """Show the attention of a module to its cache: a forward hook."""
    given = (*kwargs.values(), *args)
    cache = next((value for value in given if isinstance(value, EvictingCache)), None)
    if cache is None:
        return
    weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
    if not isinstance(weights, Tensor) or weights.ndim != 4:
        raise ValueError(
            f"{type(module).__name__} returns no attention weights, which the rules of eviction "
            "need"
        )
    layer = cache.layers[cast(int, module.layer_idx)]
    assert isinstance(layer, EvictingLayer)
    layer.observe(weights, kwargs.get("attention_mask"))


def attentions_of(model: nn.Module) -> list[nn.Module]:
    """Return the modules of attention whose layer of a cache is known, in order."""
    return [
        module
        for module in model.modules()
        if hasattr(module, "layer_idx") and "Attention" in type(module).__name__
    ]


def name_of_cache(model: nn.Module) -> str:
    """Return the argument that takes a cache; older transformers say `past_key_values`."""
    classes = [kind for kind in type(model).__mro__ if "forward" in vars(kind)]
    names = {
        name for kind in classes for name in inspect.signature(vars(kind)["forward"]).parameters
    }
    return "cache" if "cache" in names else "past_key_values"


def _put_back(model: PreTrainedModel, nested: Any) -> None:
    if nested is None:
        del model.__dict__["generate"]
    else:
        model.__dict__["generate"] = nested


def refuse_windows(config: Any) -> None:
    """Raise a ValueError if a layer attends through a sliding window."""
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        kinds = ["sliding_attention"] if getattr(config, "sliding_window", None) else []
    other = sorted(set(kinds) - {"full_attention"})
    if other:
        raise ValueError(
            f"layers of this model use {', '.join(other)}; full attention is needed in every layer"
        )
