"""Inputs that are almost right, and how often a reader is tried on them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

#: inputs of each reader in a usual run, and every night: 100,000 for the ten of them
FEW, MANY = 30, 10_000

#: what breaks readers: limits, signs, other alphabets, the marks of formats
NASTY = (
    *("", " ", "\t", "\n", "\r\n", "\0", "\x85", "\u2028", "\ufeff", "é", "𝟙", "١"),
    *("0", "-1", "1e999", "-1e-999", "nan", "inf", "-inf", "1/0", "9" * 30, "9" * 5000, "0x1F"),
    *("null", "true", "~", "[]", "{}", "[[", "}}", "'", '"', ",", ":", ": ", "- ", "#", "|", ">"),
    *("&a ", "*a", "<<: ", "!!int ", "!!float ", "!!timestamp x", "!!binary ", "!!set ", "!!bool "),
    *("2001-99-99", "1:99:99", "%", "@data", "@", "?", "\\", "../", "<script>", "[" * 2000),
)


@st.composite
def mutated(draw: st.DrawFn, bases: Sequence[bytes], most: int = 5) -> bytes:
    """One of `bases` after one to `most` changes: pieces cut out, doubled, put in, bits flipped."""
    content = draw(st.sampled_from(bases))
    for _ in range(draw(st.integers(1, most))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 12)))
        kind = draw(st.sampled_from(("insert", "replace", "delete", "double", "flip", "cut")))
        if kind in ("insert", "replace"):
            piece = draw(st.sampled_from(NASTY)).encode()
            content = content[:start] + piece + content[start if kind == "insert" else end :]
        elif kind == "delete":
            content = content[:start] + content[end:]
        elif kind == "double":
            content = content[:end] + content[start:]
        elif kind == "cut":
            content = content[:start]
        elif start < len(content):
            bit = 1 << draw(st.integers(0, 7))
            content = content[:start] + bytes([content[start] ^ bit]) + content[start + 1 :]
    return content


def fuzz(check: Callable[[object], None], inputs: st.SearchStrategy[object], number: int) -> None:
    """Have `check` hold for so many of `inputs`."""

    @settings(
        max_examples=number,
        phases=(Phase.generate, Phase.shrink),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def holds(value: object) -> None:
        check(value)

    holds()


def clear(read: Callable[[], object], told: list[str] | None = None) -> object | None:
    """What is read, or None where it was refused with a message that a person can read; warnings
    are held to the same, and added to `told`."""
    found: object | None = None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = read()
            messages = []
        except (ValueError, FileNotFoundError) as error:
            messages = [str(error)]
    assert all(one.category is UserWarning for one in said), [str(one) for one in said]
    warned = [str(one.message) for one in said]
    (told if told is not None else []).extend(warned)
    for message in (*messages, *warned):
        assert message.strip(), "an error that says nothing"
        assert message.isprintable(), "control characters, or more than one line"
        assert len(message) < 1000, "it repeats the file"
    return found
