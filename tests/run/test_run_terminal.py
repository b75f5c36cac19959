"""Nothing that a stranger wrote moves the cursor, begins a line or turns one round."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustprune.run.terminal import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rst-0.2 größer 数", "rst-0.2 größer 数"),
        ("a\nall 9 checks passed", r"a\nall 9 checks passed"),
        ("\x1b[2K\x1b[1A\r", r"\x1b[2K\x1b[1A\r"),
        ("\x9b2J", r"\x9b2J"),
        ("a\u202eb\u2028c\u200bd", r"a\u202eb\u2028c\u200bd"),
        ("\ud800", r"\ud800"),
        ("", ""),
    ],
)
def test_what_moves_a_terminal_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters()))
def test_every_string_becomes_one_line_that_can_be_printed(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in shown)
    shown.encode()
    assert printable(shown) == shown
