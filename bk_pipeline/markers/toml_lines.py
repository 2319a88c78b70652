"""On which line of a TOML file something stands: `tomllib` says so of syntax errors only."""

from __future__ import annotations

import tomllib
from typing import Any

# Keys of tables and places in arrays, from the outermost in.
Path = tuple[str | int, ...]


def line_of(text: str, path: Path) -> int:
    """The line, from 1, on which the value at `path` begins; of a table, its header's.

    What is not there has the line of the innermost thing around it that is. Found by parsing
    the file up to each line, so the parser itself says what belongs to what; a file of rules is
    short, and this is for errors.
    """
    lines = text.split("\n")
    present = path
    while present and not _has(tomllib.loads(text), present):
        present = present[:-1]
    begins = 1
    for number in range(1, len(lines) + 1):
        try:
            document = tomllib.loads("\n".join(lines[:number]))
        except tomllib.TOMLDecodeError:
            continue  # amid a value of several lines
        if _has(document, present):
            return begins
        begins = number + 1
    return 1


def _has(document: Any, path: Path) -> bool:
    here = document
    for step in path:
        try:
            here = here[step]
        except (KeyError, IndexError, TypeError):
            return False
    return True
