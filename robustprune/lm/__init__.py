"""Causal language models: windows of text, perplexity, caches that evict, and small Llamas."""

from robustprune.lm.cache import EvictingCache, evicting, heavy_hitters
from robustprune.lm.eviction import (
    Eviction,
    HeavyHitters,
    QHitter,
    RandomTokens,
    Recent,
    SnapKV,
    Tova,
)
from robustprune.lm.llama2c import convert
from robustprune.lm.merging import Merging
from robustprune.lm.perplexity import Perplexity, perplexity
from robustprune.lm.windows import random_windows, windows

__all__ = [
    "EvictingCache",
    "Eviction",
    "HeavyHitters",
    "Merging",
    "Perplexity",
    "QHitter",
    "RandomTokens",
    "Recent",
    "SnapKV",
    "Tova",
    "convert",
    "evicting",
    "heavy_hitters",
    "perplexity",
    "random_windows",
    "windows",
]
