"""Templates: text with names of fields in braces, for the rules of markers and of deployments.

`{buildkite.build.number}` is the field's value; `{{` and `}}` are braces. Templates execute
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import msgspec
from pydantic import BeforeValidator

from bk_pipeline.display import BUILDKITE, Page, printable, safe_url
from bk_pipeline.spans.fields import FIELDS, OF_BUILD, FieldType
from bk_pipeline.spans.fields import Field as SpanField
from bk_pipeline.spans.model import SpanKind
from bk_pipeline.text import duration, shortened

MISSING = "-"
# A commit message may be long; a marker's text is one line above a graph.
VALUE_LIMIT = 200

_PARTS = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
# Up to what ends the host, so that no value can extend it.
_ORIGIN = re.compile(r"https://[^\s/?#@\\]+[/?#]", re.IGNORECASE)
_BY_NAME = {field.name: field for field in FIELDS}
_MAPS = tuple(field for field in FIELDS if field.type is FieldType.MAP)


class Template:
    """A parsed template. `names` are the fields in it.

    Raises:
        ValueError: There is an unbalanced brace.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._parts = list(_parsed(text))
        self.names = tuple(name for _, name in self._parts if name is not None)

    def message(self, attributes: Mapping[str, Any]) -> str:
        """Return the text with values: first lines, durations with units, `-` for missing ones."""
        return "".join(
            literal if name is None else _shown(name, attributes.get(name))
            for literal, name in self._parts
        )

    @property
    def host(self) -> str | None:
        """The host that an HTTPS URL names in the template; None if the URL begins with a field.

        Empty if it is another URL, or if a field may change its host.
        """
        literal, name = self._parts[0] if self._parts else ("", None)
        if name is not None:
            return None
        found = _ORIGIN.match(f"{literal}/" if len(self._parts) == 1 else literal)
        try:
            return (urlsplit(found[0]).hostname or "") if found else ""
        except ValueError:
            return ""

    def url(
        self, attributes: Mapping[str, Any], hosts: Collection[str] = (BUILDKITE,)
    ) -> Page | None:
        """Return the URL with values; None if one is missing or the URL may not be linked.

        It must be an HTTPS URL on the host in the template or, if the template begins with a
        field, on one of `hosts`. A value at the start is a URL itself; others are percent-encoded.
        """
        url = ""
        for literal, name in self._parts:
            value = literal if name is None else attributes.get(name)
            if value is None:
                return None
            url += literal if name is None else quote(_text(value), safe="") if url else value
        return safe_url(url, hosts if self.host is None else (self.host,))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Template({self.text!r})"


def field_named(name: str) -> SpanField | None:
    """Return the field of this name; for `buildkite.build.meta_data.release`, the map."""
    exact = _BY_NAME.get(name)
    if exact is not None:
        return None if exact.type is FieldType.MAP else exact
    return next((one for one in _MAPS if name.startswith(one.name.removesuffix("*"))), None)


def field_error(name: str, kind: SpanKind) -> str | None:
    """Return what is wrong with this field name in a template of a rule on `kind`, or None."""
    field = field_named(name)
    if field is None:
        similar = get_close_matches(name, [one.name for one in FIELDS if kind in one.kinds], n=1)
        hint = f"; did you mean {{{similar[0]}}}?" if similar else "; docs/spans.md lists them."
        return f"there is no field {{{name}}}{hint}"
    if kind not in field.kinds:
        # Templates are about builds and jobs; what is inside of jobs has many of their fields.
        kinds = field.kinds & OF_BUILD or field.kinds
        places = ", ".join(f"{one.name.lower()} spans" for one in SpanKind if one in kinds)
        return f"{{{name}}} exists on {places} only, but this rule is about {kind.name.lower()}s."
    return None


def _parsed(text: str) -> list[tuple[str, str | None]]:
    """Return literals as (text, None) and fields as ("", name)."""
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
                    f"the brace at character {found.start() + 1} is unbalanced; write {{{{ or }}}} "
                    "for a literal brace"
                )
            case _:
                parts.append(("", found[1].strip()))
    parts.append((text[end:], None))
    return [part for part in parts if part != ("", None)]


def _shown(name: str, value: Any) -> str:
    if value is None or value == "":
        return MISSING
    field = field_named(name)
    if field is not None and field.unit == "ms":
        return duration(value)
    lines = printable(_text(value)).strip().splitlines()
    return shortened(lines[0] if lines else MISSING, VALUE_LIMIT)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict):
        return msgspec.json.encode(value).decode()
    return str(value)


def _template(value: Any) -> Template:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("expected a non-empty text")
    return Template(value)


Parsed = Annotated[Template, BeforeValidator(_template)]
