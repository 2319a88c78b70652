"""The headers of a log: what begins a section, and which phase of the job it belongs to.

The rule is the agent's: a line that begins, after colors are removed, with `--- `, `+++ ` or
`~~~ ` and has fewer than 500 bytes. `^^^ +++` alone on a line opens the section that it is in.
"""

from __future__ import annotations

import re
from enum import StrEnum

from bk_pipeline.sources.terminal import COLOR, MARKER

# Colors and markers included, a longer line is never a header.
LONGEST_LINE_BYTES = 4_096
_LONGEST_HEADER_BYTES = 500
_LONGEST_EXPANSION_BYTES = 50

CODE = rb"(?:" + MARKER + rb"|" + COLOR + rb")"
_CODES = re.compile(CODE)
_HEADER = re.compile(rb"(?:---|\+\+\+|~~~)[ \t\f](.*)", re.DOTALL)
_EXPANSION = re.compile(rb"\^\^\^\s+\+\+\+\s*")


class Phase(StrEnum):
    """What the agent did meanwhile. `OTHER`: its clean-up, or a log without its headers."""

    ENVIRONMENT = "environment"
    CHECKOUT = "checkout"
    PLUGINS = "plugins"
    COMMAND = "command"
    ARTIFACTS = "artifacts"
    OTHER = "other"


# What the agent's own headers begin with. `global` and `local` hooks are those of agents up to
# 3.9x, which later ones call `agent` and `repository`.
_HOOK = r"Running (?:global|local|agent|repository) {} hook"
_PHASES = [
    (re.compile(pattern), phase)
    for pattern, phase in (
        (_HOOK.format("environment"), Phase.ENVIRONMENT),
        (r"Detected protected environment|Buildkite environment variables", Phase.ENVIRONMENT),
        (r"Preparing secrets|Setting up environment", Phase.ENVIRONMENT),
        (_HOOK.format("(?:pre-|post-)?checkout"), Phase.CHECKOUT),
        (r"Preparing (?:working|build) (?:directory|folder)|Cleaning pipeline", Phase.CHECKOUT),
        (
            r"(?:Creating|Removing) (?:build|checkout) directory|Verifying the commit",
            Phase.CHECKOUT,
        ),
        (r"Running plugin .{0,200} command hook", Phase.COMMAND),
        (r"Running plugin .{0,200} hook", Phase.PLUGINS),
        (r"(?:Preparing|Setting up|Loading) (?:vendored )?plugins", Phase.PLUGINS),
        (_HOOK.format("(?:pre-|post-)?command"), Phase.COMMAND),
        (r"Running (?:commands?|script|batch script|build script)\b", Phase.COMMAND),
        (r"Running (?:command|script) in Docker|:docker: Running", Phase.COMMAND),
        (_HOOK.format("(?:pre-|post-)artifact"), Phase.ARTIFACTS),
        (r"Uploading artifacts", Phase.ARTIFACTS),
        (_HOOK.format("pre-exit"), Phase.OTHER),
        (r"Cleaning up", Phase.OTHER),
    )
]


def header_text(line: bytes) -> bytes | None:
    """Return the text behind the prefix of a header; None if `line` is not one."""
    bare = _CODES.sub(b"", line).rstrip(b"\r\n")
    found = _HEADER.match(bare) if len(bare) < _LONGEST_HEADER_BYTES else None
    return found[1] if found else None


def is_expansion(line: bytes) -> bool:
    """Return whether `line` opens the section that it is in."""
    bare = _CODES.sub(b"", line)
    return len(bare) < _LONGEST_EXPANSION_BYTES and _EXPANSION.fullmatch(bare) is not None


def phase_of(line: bytes, name: str) -> Phase | None:
    """Return the phase that a header of the agent begins; None for headers of other programs."""
    if not _CODES.sub(b"", line).startswith(b"~~~"):
        return None
    return next((phase for pattern, phase in _PHASES if pattern.match(name)), None)
