"""Templates: text with the names of span fields in braces, and nothing that could run.

`{buildkite.build.number}` is the field's value, `{{` and `}}` are braces.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any
from urllib.parse import quote

import msgspec

from bk_pipeline.display import plain
from bk_pipeline.spans.fields import FIELDS, FieldType
from bk_pipeline.spans.fields import Field as SpanField
from bk_pipeline.spans.model import SpanKind
from bk_pipeline.text import duration

MISSING = "-"
# A commit message may be a page; a marker's text is one line above a graph.
VALUE_LIMIT = 200

_PARTS = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_BY_NAME = {field.name: field for field in FIELDS}
_MAPS = tuple(field for field in FIELDS if field.type is FieldType.MAP)


class Template:
    """A parsed template. `names` are the fields that it refers to.

    Raises:
        ValueError: It has a lone brace.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._parts = list(_parsed(text))
        self.names = tuple(name for _, name in self._parts if name is not None)

    def message(self, attributes: Mapping[str, Any]) -> str:
        """The text with values put in: first lines, times with their unit, `-` for none."""
        return "".join(
            literal if name is None else _shown(name, attributes.get(name))
            for literal, name in self._parts
        )

    def url(self, attributes: Mapping[str, Any]) -> str | None:
        """The address with values put in; None if one is missing, or if that is no web page's.

        A value that begins the address is one itself; others are percent-encoded.
        """
        made = ""
        for literal, name in self._parts:
            value = literal if name is None else attributes.get(name)
            if value is None:
                return None
            made += literal if name is None else quote(_text(value), safe="") if made else value
        # A value that is the address may be anything: `javascript:…` is no page.
        return made if made.startswith(("https://", "http://")) and plain(made) == made else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Template({self.text!r})"


def field_called(name: str) -> SpanField | None:
    """The field of this name; of a name like `buildkite.build.meta_data.release`, the map."""
    exact = _BY_NAME.get(name)
    if exact is not None:
        return None if exact.type is FieldType.MAP else exact
    return next((one for one in _MAPS if name.startswith(one.name.removesuffix("*"))), None)


def complaint(name: str, kind: SpanKind) -> str | None:
    """What is wrong with a template that names this field in a rule on `kind`; None if nothing."""
    field = field_called(name)
    if field is None:
        near = get_close_matches(name, [one.name for one in FIELDS if kind in one.kinds], n=1)
        hint = f"; did you mean {{{near[0]}}}?" if near else "; docs/spans.md lists them."
        return f"there is no field {{{name}}}{hint}"
    if kind not in field.kinds:
        places = ", ".join(f"{one.name.lower()} spans" for one in SpanKind if one in field.kinds)
        return f"{{{name}}} stands on {places} only, and this rule is about {kind.name.lower()}s."
    return None


def _parsed(text: str) -> list[tuple[str, str | None]]:
    """Literals, each with None, and fields, each with "" before its name."""
    parts: list[tuple[str, str | None]] = []
    end = 0
    for found in _PARTS.finditer(text):
        parts.append((text[end : found.start()], None))
        end = found.end()
        match found[0]:
            case "{{" | "}}":
                parts.append((found[0][0], None))
            case "{" | "}":
                raise ValueError(
                    f"the brace at character {found.start() + 1} has no partner; write {{{{ or }}}} "
                    "for a brace"
                )
            case _:
                parts.append(("", found[1].strip()))
    parts.append((text[end:], None))
    return [part for part in parts if part != ("", None)]


def _shown(name: str, value: Any) -> str:
    if value is None or value == "":
        return MISSING
    field = field_called(name)
    if field is not None and field.unit == "ms":
        return duration(value)
    lines = plain(_text(value)).strip().splitlines()
    line = lines[0] if lines else MISSING
    return line if len(line) <= VALUE_LIMIT else line[: VALUE_LIMIT - 1] + "…"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict):
        return msgspec.json.encode(value).decode()
    return str(value)
