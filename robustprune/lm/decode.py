"""How fast causal language models generate text: tokens a second of several, side by side."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from attacks.modes import evaluating
from robustprune.lm.cache import name_of_cache

#: the tokens that a model generates before the next one takes its turn
_AT_ONCE = 8


@dataclass(frozen=True)
class DecodingSpeed:
    """The speed of one model.

    Attributes:
        seconds: of each timed step; a step gives one token of each text.
        batch_size: how many texts were generated at once.
        weights: the bytes of all parameters and buffers, each of them once. A step reads nearly all
            of them, so that weights / bandwidth of the memory is a lower bound on its time.
    """

    seconds: tuple[float, ...]
    batch_size: int
    weights: int

    @property
    def tokens_per_second(self) -> float:
        """Texts at once / median seconds of a step."""
        return self.batch_size / statistics.median(self.seconds)

    @property
    def fastest(self) -> float:
        """Texts at once / seconds of the fastest step, which other work slows least."""
        return self.batch_size / min(self.seconds)


def decode_speed(
    models: Mapping[str, nn.Module],
    *,
    batch_size: int = 1,
    prompt: int = 16,
    tokens: int = 16,
    repeats: int = 3,
    cache: Callable[[], object] | None = None,
    seed: int = 0,
) -> dict[str, DecodingSpeed]:
    """Time greedy generation, token by token, with a cache of keys and values.

    The models take turns every eight tokens, so that other load on the machine slows all of them
    alike, and the weights of one stay in the processor's cache if they fit. The prompt is drawn at
    random, is the same for all, and its own pass is not timed; neither is the first step.
    Generation does not stop at an end-of-text token. The result depends on threads and machine.

    Args:
        models: causal language models of transformers, on one device, such as the results of
            `deploy.sparsify` and `slim_causal`.
        batch_size: how many texts are generated at once.
        prompt, tokens: the lengths of the prompt and of what is timed.
        repeats: how many times the text is generated.
        cache: makes a new cache for each model and each time, such as what `evicting` yields; None
            takes the model's own, which keeps everything.

    Raises:
        ValueError: a number is below 1, or prompt and tokens are more than a model has positions.
    """
    for name, value in {
        "batch_size": batch_size, "prompt": prompt, "tokens": tokens, "repeats": repeats,
    }.items():  # fmt: skip
        if value < 1:
            raise ValueError(f"{name} {value} must be at least 1")
    for name, model in models.items():
        places = getattr(_config(model), "max_position_embeddings", None)
        if places is not None and prompt + tokens + 1 > places:
            raise ValueError(
                f"{name} has {places} positions, and prompt {prompt} + tokens {tokens} + 1 are more"
            )
    generator = torch.Generator().manual_seed(seed)
    vocabulary = min(int(_config(model).vocab_size) for model in models.values())
    ids = torch.randint(vocabulary, (batch_size, prompt), generator=generator)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    with contextlib.ExitStack() as stack:
        for model in models.values():
            stack.enter_context(evaluating(model))
        stack.enter_context(torch.inference_mode())
        for _ in range(repeats):
            turns = {name: _Turn(model, ids, cache) for name, model in models.items()}
            for turn in turns.values():
                for _ in range(2):  # the prompt, and one to warm up
                    turn.step()
            for at in range(0, tokens, _AT_ONCE):
                for name, turn in turns.items():
                    seconds[name] += [turn.step() for _ in range(min(_AT_ONCE, tokens - at))]
    return {
        name: DecodingSpeed(tuple(seconds[name]), batch_size, _bytes(model))
        for name, model in models.items()
    }


class _Turn:
    """One text, or several, that a model goes on with."""

    def __init__(
        self, model: nn.Module, prompt: Tensor, cache: Callable[[], object] | None
    ) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.given = prompt.to(self.device)
        self.name = name_of_cache(model)
        self.held = None if cache is None else cache()

    def step(self) -> float:
        """Add a token and return the seconds that it took."""
        held = {} if self.held is None else {self.name: self.held}
        _wait(self.device)
        started = time.perf_counter()
        outputs = self.model(self.given, use_cache=True, **held)
        self.given, self.held = outputs.logits[:, -1:].argmax(-1), getattr(outputs, self.name)
        _wait(self.device)
        return time.perf_counter() - started


def _config(model: nn.Module) -> Any:
    return cast(Any, model).config


def _bytes(model: nn.Module) -> int:
    """Memory of parameters and buffers; a tied weight counts once."""
    held = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() * t.element_size() for t in held.values())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
