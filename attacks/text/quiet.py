"""Keep transformers and the client of the hub from printing where nobody asked for it."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet_transformers(*, bars: bool = False) -> Iterator[None]:
    """Inside this context, transformers reports no new classifiers, and the client of the hub does
    not report each attempt to reach it.

    Args:
        bars: whether their progress bars are shown, as for a download that somebody watches.

    Raises:
        ImportError: transformers is not installed.
    """
    own, hub = _logging(), logging.getLogger("huggingface_hub")
    levels, shown = (own.get_verbosity(), hub.level), own.is_progress_bar_enabled()
    own.set_verbosity_error()
    hub.setLevel(logging.ERROR)
    _show_bars(bars)
    try:
        yield
    finally:
        own.set_verbosity(levels[0])
        hub.setLevel(levels[1])
        _show_bars(shown)


def _show_bars(shown: bool) -> None:
    if shown:
        _logging().enable_progress_bar()
    else:
        _logging().disable_progress_bar()


def _logging() -> Any:
    return importlib.import_module("transformers.utils.logging")
