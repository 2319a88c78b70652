"""Text of a job's log without what only a terminal understands.

A log is the output of a terminal: colors, cursor movements, progress that overwrites itself, and
the time markers of Buildkite's agent (`ESC _ bk;t=<unix ms> BEL`).
"""

from __future__ import annotations

import re

from bk_pipeline.spans.secrets import MASK, mask_log_secrets
from bk_pipeline.text import one_line, shortened

MARKER = rb"\x1b_bk;t=\d{1,19}\x07"
# The agent removes these and no others before it looks for a header.
COLOR = rb"\x1b\[[;\d]*+[mK]"
# Option `timestamp-lines` of the agent; headers have none.
STAMP = rb"\[(20\d\d-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-6]\dZ)\] "

_ESCAPES = re.compile(
    rb"\x1b(?:[_\]P^][^\x07\x1b\n]*+(?:\x07|\x1b\\)?"  # strings: markers, links, images
    rb"|\[[0-?]*+[ -/]*+[@-~]?"  # colors, cursor
    rb"|[ -/]*+[0-~]?)"
)
# C0 and C1 control characters, and characters without a width, which could split a secret.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufe0f\ufeff]"
)
# Ends of lines, and jumps of the cursor to another one.
_BREAKS = re.compile(rb"(?:[\r\n]|\x1b\[[\d;]*+[HfEF])++")
_LINE_STAMP = re.compile(STAMP)

_KEY_BEGINS = re.compile(r"-BEGIN [A-Z0-9 _-]{0,60}PRIVATE KEY|PuTTY-User-Key-File-")
_KEY_ENDS = re.compile(r"-END [A-Z0-9 _-]{0,60}PRIVATE KEY|Private-MAC:")
_KEY_BODY = re.compile(r"(?:^|\s)[A-Za-z0-9+/=]{16,}\s*$|[A-Z][A-Za-z-]{1,30}: ")
_LONGEST_KEY_LINES = 400


def plain(raw: bytes) -> str:
    """Return bytes of a terminal as text without escape sequences and invisible characters."""
    return _INVISIBLE.sub("", _ESCAPES.sub(b"", raw).decode(errors="replace"))


def plain_lines(raw: bytes) -> list[tuple[int, str]]:
    """Return the lines of `raw` that are not blank, each with the offset where it begins.

    A carriage return ends a line too, and so does a jump of the cursor: each state of a progress
    line is one. The agent's time
    stamps are removed, and the bodies of private keys.
    """
    lines = []
    start = 0
    for found in (*_BREAKS.finditer(raw), None):
        end = found.start() if found else len(raw)
        text = plain(_LINE_STAMP.sub(b"", raw[start:end], count=1))
        if text.strip():
            lines.append((start, text))
        if found:
            start = found.end()
    return _without_keys(lines)


def safe(text: str, limit: int) -> str:
    """Return `text` on one line, with its secrets masked and then shortened to `limit`."""
    return shortened(one_line(mask_log_secrets(text), 4 * limit), limit)


def _without_keys(lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Mask private keys that extend over several lines, also those cut by an end of `lines`."""
    inside = 0
    for index, (offset, text) in enumerate(lines):
        if inside and (_KEY_BODY.search(text) or _KEY_ENDS.search(text)):
            lines[index] = (offset, MASK)
            inside = 0 if _KEY_ENDS.search(text) else inside - 1
        elif _KEY_BEGINS.search(text):
            inside = _LONGEST_KEY_LINES if not _KEY_ENDS.search(text) else 0
            lines[index] = (offset, MASK)
        elif _KEY_ENDS.search(text):
            _mask_before(lines, index)
            inside = 0
        else:
            inside = 0
    return lines


def _mask_before(lines: list[tuple[int, str]], index: int) -> None:
    """Mask the end of a key at `index` whose beginning is not there."""
    while index >= 0 and (_KEY_ENDS.search(lines[index][1]) or _KEY_BODY.search(lines[index][1])):
        lines[index] = (lines[index][0], MASK)
        index -= 1
