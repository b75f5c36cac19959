"""Show successful attacks on text as HTML, with every word that was replaced."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from attacks.text import Diff, TextResult, split


def text_diffs(results: Sequence[TextResult], *, most: int = 20) -> Markup:
    """Return a list of at most `most` successful attacks, those with the fewest changes first.

    Everything that comes from the data is escaped. Removed words are in <del>, and new ones in
    <ins>. The result is empty if no attack succeeded.
    """
    found = sorted((r for r in results if r.status == "success"), key=lambda r: r.share_changed)
    if not found:
        return Markup("")
    items = Markup("").join(
        Markup('<li><p class="text-diff">{}</p><p class="note">{}</p></li>').format(
            diff_html(result.text, result.diff), _note(result)
        )
        for result in found[:most]
    )
    return Markup('<ol class="text-diffs">{}</ol>').format(items)


def diff_html(text: str, steps: Sequence[Diff]) -> Markup:
    """Return the text with its changes marked; `steps` comes from ``word_diff(text, other)``."""
    original, at = split(text), 0
    parts = []
    for step in steps:
        end = at + len(split(step.word))  # a step may hold several words
        parts.append(escape(original.gaps[at] if end > at else " "))
        old, at = original.part(at, end), end
        if step.kind == "same":
            parts.append(escape(old))
            continue
        if old:
            parts.append(Markup("<del>{}</del>").format(old))
        if old and step.replacement:
            parts.append(Markup(" "))
        if step.replacement:
            parts.append(Markup("<ins>{}</ins>").format(step.replacement))
    return Markup("").join([*parts, escape(original.gaps[-1])])


def _note(result: TextResult) -> str:
    words = "1 word" if result.changed == 1 else f"{result.changed} words"
    return (
        f"class {result.label} until {words} of {result.words} changed, "
        f"after {result.queries} queries"
    )
