"""Causal language models: windows of text, perplexity also under attack, adapters for what was
pruned, and caches that evict."""

from robustprune.lm.adapters import tune_adapters
from robustprune.lm.cache import EvictingCache, evicting, heavy_hitters
from robustprune.lm.decode import DecodingSpeed, decode_speed
from robustprune.lm.embedded import (
    AdversarialText,
    EmbeddedText,
    adversarial_perplexity,
    embedded,
    token_loss,
)
from robustprune.lm.eviction import (
    Eviction,
    HeavyHitters,
    QHitter,
    RandomTokens,
    Recent,
    SnapKV,
    Tova,
)
from robustprune.lm.importance import importance_masks
from robustprune.lm.llama2c import convert
from robustprune.lm.lora import tune_lora
from robustprune.lm.merging import Merging
from robustprune.lm.perplexity import Perplexity, perplexity
from robustprune.lm.prompts import Prompted, tune_prompts
from robustprune.lm.rounds import prune_in_rounds
from robustprune.lm.windows import next_token_batches, random_windows, windows

__all__ = [
    "AdversarialText",
    "DecodingSpeed",
    "EmbeddedText",
    "EvictingCache",
    "Eviction",
    "HeavyHitters",
    "Merging",
    "Perplexity",
    "Prompted",
    "QHitter",
    "RandomTokens",
    "Recent",
    "SnapKV",
    "Tova",
    "adversarial_perplexity",
    "convert",
    "decode_speed",
    "embedded",
    "evicting",
    "heavy_hitters",
    "importance_masks",
    "next_token_batches",
    "perplexity",
    "prune_in_rounds",
    "random_windows",
    "token_loss",
    "tune_adapters",
    "tune_lora",
    "tune_prompts",
    "windows",
]
