"""Word-level differences as HTML."""

from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from attacks.text import TextResult, word_diff
from robustprune.report.text_diffs import diff_html, text_diffs


def result(text: str, adversarial: str, status: str = "success", changed: int = 1) -> TextResult:
    return TextResult(text, 1, adversarial, status, 12, len(text.split()), changed)  # type: ignore[arg-type]


def test_replaced_words_stand_beside_the_old_ones() -> None:
    before, after = "A good, <b>plain</b> film.", "A fine, <b>plain</b> film."
    assert diff_html(before, word_diff(before, after)) == (
        "A <del>good</del> <ins>fine</ins>, &lt;b&gt;plain&lt;/b&gt; film."
    )
    before, after = "a great film", "a gr eat film"
    assert diff_html(before, word_diff(before, after)) == (
        "a <del>great</del> <ins>gr eat</ins> film"
    )


def test_only_successes_fewest_changes_first() -> None:
    html = text_diffs(
        [
            result("one two", "uno due", changed=2),
            result("kept", "kept", "failed", 0),
            result("three four", "three quattro"),
        ]
    )
    assert html.index("quattro") < html.index("uno")
    assert html.count("<li>") == 2
    assert "class 1 until 1 word of 2 changed, after 12 queries" in html
    assert "kept" not in html
    assert text_diffs([result("a b", "a c")] * 5, most=3).count("<li>") == 3
    assert text_diffs([result("kept", "kept", "failed", 0)]) == ""


class Text(HTMLParser):
    """What a browser shows, without what is in <ins>."""

    def __init__(self) -> None:
        super().__init__()
        self.shown, self.tags, self._inside = "", set[str](), False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        self._inside = tag == "ins"

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.shown += data


TEXT = st.text(alphabet="ab<>&\"' .-", max_size=25)


@given(TEXT, TEXT)
def test_no_text_opens_a_tag_and_all_of_the_original_is_shown(before: str, after: str) -> None:
    page = Text()
    page.feed(str(diff_html(before, word_diff(before, after))))
    page.close()
    assert page.tags <= {"del", "ins"}
    assert "".join(page.shown.split()) == "".join(before.split())
