"""Split a JSON array into its elements, even if some of them are broken.

A valid page takes one strict pass of msgspec. Only if that fails, the page is scanned element
by element, as leniently as Python's own JSON parser. Each element keeps its bytes; errors in
it are found when it is decoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from json import JSONDecoder
from typing import Any, NamedTuple

import msgspec

# Accepts NaN, control characters and numbers of any length: only an element's end matters.
_LENIENT = JSONDecoder(strict=False, parse_int=len, parse_float=len, parse_constant=len)
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)
# Between elements. Bytes are decoded as Latin-1 here, so a BOM is three characters.
_BLANK = r"[ \t\r\n\0]|\xef\xbb\xbf"
_SPACE = re.compile(rf"(?:{_BLANK})*+")
_BETWEEN = re.compile(rf"(?:{_BLANK}|,)*+")
_CANDIDATE = re.compile(rf",(?:{_BLANK})*+(?=\{{)")
_BUILD_KEYS = {"id", "number", "created_at"}
# Buildkite's builds begin with their id.
_FIRST_ID = re.compile(rb'\s*\{\s*"id"\s*:\s*"([^"\\]{1,100})"')


class Split(NamedTuple):
    """A page's elements, each with its original bytes.

    Attributes:
        elements: Valid and broken ones.
        closed: Whether the array has an end; if not, the page is truncated.
        certain: Whether that end was found, and not guessed after a broken element.
    """

    elements: list[bytes]
    closed: bool = True
    certain: bool = True


def split_elements(body: bytes) -> Split | None:
    """The elements of the JSON array in `body`, copied; None if it is not an array."""
    try:
        elements = msgspec.json.decode(body, type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return split_leniently(body)
    return Split([bytes(element) for element in elements])


def split_leniently(body: bytes) -> Split | None:
    """`split_elements` for a page with broken elements.

    If an element's end cannot be determined from its brackets, it extends to the start of the
    next build.
    """
    text = body.decode("latin-1")
    begin = _end_of_space(text, 0)
    if not text.startswith("[", begin):
        return None
    elements: list[bytes] = []
    closed = False
    for start, end in _extents(text, begin + 1):
        if text[start] == "]":
            closed = True
        else:
            elements.append(text[start:end].encode("latin-1"))
    if closed or not elements:
        return Split(elements, closed, closed)
    last = elements[-1].rstrip(b" \t\r\n\0")
    return Split([*elements[:-1], last.removesuffix(b"]")], last.endswith(b"]"), certain=False)


def split_values(body: bytes) -> list[bytes]:
    """The JSON values that follow one another in `body`, each exactly as it stands there.

    A broken one reaches to the next line that begins with the same character.
    """
    text = body.decode("latin-1")
    values, at = [], 0
    while (at := _end_of_space(text, at)) < len(text):
        end, _ = _end_of_value(text, at)
        if end is None:
            following = text.find(f"\n{text[at]}", at)
            end = len(text) if following < 0 else following
        values.append(text[at:end].encode("latin-1"))
        at = end
    return values


def whole_object(body: bytes) -> bytes | None:
    """The bytes of the JSON object in `body`, even a broken one; None if it is truncated."""
    text = body.decode("latin-1")
    begin = _end_of_space(text, 0)
    if not text.startswith("{", begin):
        return None
    end, _ = _end_of_value(text, begin)
    end = _end_by_brackets(text, begin) if end is None else end
    return None if end is None else text[begin:end].encode("latin-1")


def id_in(element: bytes) -> str | None:
    """The id of a broken element; None if it cannot be found."""
    _, value = _end_of_value(element.decode(errors="replace"), 0)
    if isinstance(value, dict):
        found = value.get("id")
        return found.encode(errors="replace").decode() if isinstance(found, str) else None
    first = _FIRST_ID.match(element)
    return first[1].decode(errors="replace") if first else None


def _extents(text: str, at: int) -> Iterator[tuple[int, int]]:
    """Start and end of each element, and of the `]` that seems to close the array."""
    while (at := _BETWEEN.match(text, at).end()) < len(text):  # type: ignore[union-attr]
        end = at + 1 if text[at] == "]" else _end_of_element(text, at)
        yield at, end
        at = end


def _end_of_element(text: str, at: int) -> int:
    end, value = _end_of_value(text, at)
    if end is not None and _ends_well(text, end) and not isinstance(value, list):
        return end
    end = _end_by_brackets(text, at)
    if end is None or not _ends_well(text, end):
        end = len(text)
    # With a bracket or quote missing, brackets can still balance. No element contains a build.
    return _next_build(text, at, end)


def _ends_well(text: str, end: int) -> bool:
    after = _end_of_space(text, end)
    return after == len(text) or text[after] in ",]"


def _next_build(text: str, at: int, limit: int) -> int:
    """Position of the comma before the next build after the broken element at `at`.

    Other objects, like jobs, are skipped. Returns `limit` if no build begins before it.
    """
    while (found := _CANDIDATE.search(text, at, limit)) is not None:
        begin = found.end()
        end, value = _end_of_value(text, begin)
        if end is not None and _is_build(text[begin:end] if value is None else value):
            return found.start()
        at = begin if end is None else end
    return limit


def _is_build(value: Any) -> bool:
    if isinstance(value, str):  # an object nested too deeply to parse
        return all(f'"{key}"' in value for key in _BUILD_KEYS)
    return isinstance(value, dict) and value.keys() >= _BUILD_KEYS


def _end_of_space(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()  # type: ignore[union-attr]  # always matches


def _end_of_value(text: str, at: int) -> tuple[int | None, Any]:
    """End of the JSON value at `at` (None if it is broken), and the value if it was parsed."""
    try:
        value, end = _LENIENT.raw_decode(text, at)
    except ValueError:
        return None, None
    except RecursionError:
        return _end_by_brackets(text, at), None
    return end, value


def _end_by_brackets(text: str, at: int) -> int | None:
    """Position after which all brackets opened from `at` on are closed; None if there is none."""
    depth = 0
    for token in _TOKENS.finditer(text, at):
        if token[0] in "[{":
            depth += 1
        elif token[0] in "]}":
            depth -= 1
            if depth <= 0:
                return token.end() if depth == 0 else None
    return None
