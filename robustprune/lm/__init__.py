"""Causal language models: windows of text, perplexity, and a checkpoint format of small Llamas."""

from robustprune.lm.llama2c import convert
from robustprune.lm.perplexity import Perplexity, perplexity
from robustprune.lm.windows import random_windows, windows

__all__ = ["Perplexity", "convert", "perplexity", "random_windows", "windows"]
