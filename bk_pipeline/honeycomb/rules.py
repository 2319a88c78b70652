"""Templates: text with the names of span fields in braces, and nothing that could run.

`{buildkite.build.number}` is the field's value, `{{` and `}}` are braces.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import sha256
from typing import Annotated, Any, Literal
from urllib.parse import quote

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from bk_pipeline.display import printable
from bk_pipeline.spans.fields import FIELDS, FieldType
from bk_pipeline.spans.fields import Field as SpanField
from bk_pipeline.spans.model import SpanKind
from bk_pipeline.text import duration, shortened

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
        return (
            made if made.startswith(("https://", "http://")) and printable(made) == made else None
        )

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
    lines = printable(_text(value)).strip().splitlines()
    return shortened(lines[0] if lines else MISSING, VALUE_LIMIT)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict):
        return msgspec.json.encode(value).decode()
    return str(value)


# In the place of a dataset: the whole environment.
EVERYWHERE = "__all__"
BUILD_PAGE = Template("{buildkite.build.web_url}")
# What a marker leads to, the first that there is: a block step's job has no page of its own.
PAGES = {
    SpanKind.BUILD: (BUILD_PAGE,),
    SpanKind.JOB: (Template("{buildkite.job.web_url}"), BUILD_PAGE),
}
# Condition: by kind, the column that its globs are held against. What a kind lacks it cannot ask.
CONDITIONS: Mapping[str, Mapping[SpanKind, str]] = {
    "pipeline": dict.fromkeys(PAGES, "buildkite.pipeline.slug"),
    "branch": dict.fromkeys(PAGES, "buildkite.build.branch"),
    "source": dict.fromkeys(PAGES, "buildkite.build.source"),
    "state": {SpanKind.BUILD: "buildkite.build.state", SpanKind.JOB: "buildkite.job.state"},
    "step_key": {SpanKind.JOB: "buildkite.step.key"},
    "job_name": {SpanKind.JOB: "buildkite.job.label"},
    "queue": {SpanKind.JOB: "buildkite.agent.queue"},
}


def _globs(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _template(value: Any) -> Template:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("give a text")
    return Template(value)


Globs = Annotated[
    tuple[Annotated[str, Field(min_length=1, strict=True)], ...],
    Field(min_length=1),
    BeforeValidator(_globs),
]
Name = Annotated[str, Field(min_length=1, strict=True)]
Parsed = Annotated[Template, BeforeValidator(_template)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Color = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]


class Rule(BaseModel):
    """One `[[rule]]` of the file. Its `id` is what its markers are remembered by.

    Globs are matched with case; `!` in front leaves out. `at` is the marker's place: a point at
    the start or the finish, or a range, of the run or of the wait for an agent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
    on: Literal["build", "job"] = "build"
    type: Name
    message: Parsed
    url: Parsed | None = None
    dataset: Annotated[str, Field(pattern=r"^[^/]*[^/\s][^/]*$")] = ""
    at: Literal["start", "finish", "start-to-finish", "wait"] = "start"
    pipeline: Globs | None = None
    branch: Globs | None = None
    source: Globs | None = None
    state: Globs | None = None
    step_key: Globs | None = None
    job_name: Globs | None = None
    queue: Globs | None = None
    min_duration_s: Seconds | None = None
    min_wait_s: Seconds | None = None

    @property
    def kind(self) -> SpanKind:
        """Which rows of the span table it is about."""
        return SpanKind.BUILD if self.on == "build" else SpanKind.JOB

    @property
    def pages(self) -> tuple[Template, ...]:
        """What its markers lead to: the first of these that has all its values."""
        return (self.url,) if self.url else PAGES[self.kind]

    @property
    def conditions(self) -> dict[str, tuple[str, ...]]:
        """The globs of the conditions that it has."""
        return {name: globs for name in CONDITIONS if (globs := getattr(self, name))}


@dataclass(frozen=True)
class Rules:
    """All rules, and the colours of their types. Every rule has its dataset's slug."""

    rules: tuple[Rule, ...]
    colors: Mapping[str, str]

    @property
    def digest(self) -> str:
        """16 hex digits that change with the rules: what was looked at by others is not settled."""
        return sha256(repr(self.rules).encode()).hexdigest()[:16]

    @property
    def datasets(self) -> set[str]:
        """All that a rule places markers in."""
        return {rule.dataset for rule in self.rules}

    def colors_in(self, dataset: str) -> dict[str, str]:
        """The colours that are given for the types of the dataset's markers."""
        types = {rule.type for rule in self.rules if rule.dataset == dataset}
        return {kind: color for kind, color in self.colors.items() if kind in types}
