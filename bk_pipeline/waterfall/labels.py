"""What people named things, fit for a terminal: emoji shown, and nothing that moves the cursor."""

from __future__ import annotations

import re

from rich.emoji import Emoji

from bk_pipeline.display import plain

SHORTCODE = re.compile(r"(?<!\w):([a-zA-Z][\w+-]*):(?!\w)")
PLACEHOLDER = re.compile(r"%[nNt]\b|\{\{[^}]*\}\}")
# Not printable by itself, and part of many an emoji.
JOINER = "\u200d"


def readable(label: str) -> str:
    """One line. `:rocket:` becomes the emoji; of codes that no font has, the words stay.

    `:jest: Unit tests` is "Unit tests" and `:pipeline:` "pipeline": an organization's own
    emoji are pictures on Buildkite's pages.
    """
    shown = Emoji.replace(label)
    bare = SHORTCODE.sub("", shown)
    if not bare.strip():
        bare = SHORTCODE.sub(lambda match: f" {match[1]} ", shown)
    lines = "".join(c if c.isprintable() or c == JOINER else " " for c in bare)
    return " ".join(plain(lines).split())


def of_all_jobs(label: str) -> str:
    """A step's label without what only its jobs fill in: `%n`, `%N`, `%t`, `{{matrix.os}}`."""
    return " ".join(PLACEHOLDER.sub("", label).split()) or label
