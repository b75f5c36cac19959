"""Check options from a config against the signature of the function that they go to."""

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from robustprune.run.suggest import did_you_mean

#: largest number of entries of a list; each entry makes one layer or more
_MOST_ENTRIES = 1000


def checked_options(
    build: Callable[..., Any], options: Mapping[str, Any], *, model: str
) -> dict[str, Any]:
    """Return `options` as keyword arguments of `build`, with lists turned into tuples.

    The options of `build` are its keyword-only parameters, whose annotations are int, float, bool,
    str or tuple[int, ...].

    Raises:
        ValueError: `build` has no such option (the message names the nearest one), or the value has
            another type, or is a list of more than 1,000 entries.
    """
    function = build.__init__ if inspect.isclass(build) else build
    hints = typing.get_type_hints(function)
    allowed = [
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    checked = {}
    for name, value in options.items():
        if name not in allowed:
            raise ValueError(
                f"model '{model}' has no option '{name}'{did_you_mean(name, allowed)}; "
                f"its options are {', '.join(allowed)}"
            )
        checked[name] = _of_type(hints[name], value, f"option '{name}' of model '{model}'")
    return checked


def _of_type(hint: Any, value: Any, where: str) -> Any:
    """Return `value` if it has the annotated type. A bool is no int here, but an int is a float."""
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        if isinstance(value, (list, tuple)):
            if len(value) > _MOST_ENTRIES:
                raise ValueError(
                    f"{where} has {len(value):,} entries; give at most {_MOST_ENTRIES:,}"
                )
            return tuple(_of_type(item, part, f"an entry of {where}") for part in value)
        raise ValueError(f"{where} is {value!r}; give a list of {item.__name__}")
    accepted = (int, float) if hint is float else (hint,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(
            f"{where} is {value!r} of type {type(value).__name__}; give {hint.__name__}"
        )
    return value
