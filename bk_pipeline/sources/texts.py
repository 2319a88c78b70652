"""Texts from artifacts, made fit to leave: on one line, masked, truncated."""

from __future__ import annotations

import re
from collections.abc import Iterable

from bk_pipeline.sources.model import DetailSpan
from bk_pipeline.spans.secrets import FAMILIES
from bk_pipeline.text import one_line

# In characters.
NAME_LIMIT = 500
MESSAGE_LIMIT = 1_000
# What is looked at of a longer text, so that a secret at its end is masked before it is truncated.
_LOOK_AT = 4 * MESSAGE_LIMIT
_BATCH = 5_000
_HINTS = [(family, tuple(family.hints.split(" "))) for family in FAMILIES]

# Values that are text, but not of what was read.
_OWN_VALUES = frozenset({
    *("test.suite.run.status", "test.case.result.status", "bk_pipeline.test.result"),
    "bk_pipeline.artifact.path",
})  # fmt: skip

# Colors. Their escape character has been replaced or left out, because XML has none.
_COLORS = re.compile("(?:[\x1b\x7f\ufffd]|#x1B)?\\[[0-9]{1,3}(?:;[0-9]{1,3}){0,8}m")


def clean_name(text: str) -> str:
    """Return a name on one line, truncated to `NAME_LIMIT` characters."""
    if len(text) <= NAME_LIMIT and text.isprintable():
        return text.strip()
    return one_line(text[:_LOOK_AT], NAME_LIMIT)


def clean_message(text: str) -> str:
    """Return a failure message on one line, without colors, truncated to `_LOOK_AT` characters."""
    return one_line(without_colors(text[:_LOOK_AT]), _LOOK_AT)


def without_colors(text: str) -> str:
    """Return `text` without ANSI colors."""
    return _COLORS.sub("", text) if "[" in text else text


def without_texts(spans: Iterable[DetailSpan]) -> None:
    """Remove all text that came from a file from the attributes of its spans."""
    for span in spans:
        span.attributes = {
            name: value
            for name, value in span.attributes.items()
            if not isinstance(value, str) or name in _OWN_VALUES
        }


def masked_texts(texts: Iterable[str]) -> dict[str, str]:
    """Return those of `texts` that have secrets, each with its masked form.

    This is `mask_secrets` for many short texts: it looks for the hints of secrets in thousands of
    them at once.
    """
    distinct = list(dict.fromkeys(texts))
    found: dict[str, str] = {}
    for start in range(0, len(distinct), _BATCH):
        batch = distinct[start : start + _BATCH]
        safe = list(batch)
        lowered = [text.lower() for text in batch]
        all_lowered = "\n".join(lowered)
        for family, hints in _HINTS:
            suspects = {
                at
                for hint in hints
                if hint in all_lowered
                for at, one in enumerate(lowered)
                if hint in one
            }
            for at in suspects:
                safe[at] = family.mask(safe[at])
        found |= {text: after for text, after in zip(batch, safe, strict=True) if text != after}
    return found
