"""Markers, the rules that define them, and the TOML file of the rules."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path as FilePath
from typing import Annotated, Literal, NamedTuple

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from bk_pipeline.contracts import PlacedMarker
from bk_pipeline.display import BUILDKITE
from bk_pipeline.honeycomb.account import dataset_slug
from bk_pipeline.rules import (
    EXPECTED_ID,
    RULE,
    KindConditions,
    Path,
    misplaced_conditions,
    read_rules,
    repeated_ids,
)
from bk_pipeline.spans.model import SpanKind
from bk_pipeline.templates import Parsed, Template, field_error

# Stands for the whole environment instead of a dataset.
ALL_DATASETS = "__all__"
BUILD_PAGE = Template("{buildkite.build.web_url}")
# The URLs of a marker, the first one available: a block step's job has no page of its own.
PAGES = {
    SpanKind.BUILD: (BUILD_PAGE,),
    SpanKind.JOB: (Template("{buildkite.job.web_url}"), BUILD_PAGE),
}
# The fields of rules with `regression = true`, besides those of the build.
REGRESSION = "regression."
REGRESSION_FIELDS = tuple(
    f"{REGRESSION}{name}"
    for name in ("subject", "step", "measure", "effect", "before", "after", "percent", "since")
)

Name = Annotated[str, Field(min_length=1, strict=True)]
Color = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]


class Rule(KindConditions):
    """One `[[rule]]` of the file; the ledger knows its markers by `id`.

    `at` is the time of the marker: a point at the start or finish, or a range of the run or of
    the wait for an agent. With `regression`, it matches only first builds of a change for the
    worse, and makes a marker for each such change.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    type: Name
    message: Parsed
    url: Parsed | None = None
    dataset: Annotated[str, Field(pattern=r"^[^/]*[^/\s][^/]*$")] = ""
    at: Literal["start", "finish", "start-to-finish", "wait"] = "start"
    regression: Annotated[bool, Field(strict=True)] = False

    @property
    def pages(self) -> tuple[Template, ...]:
        """The templates of the marker's URL; the first one with all values is used."""
        return (self.url,) if self.url else PAGES[self.kind]


@dataclass(frozen=True)
class Rules:
    """All rules with their datasets' slugs, the colours of their types, and Buildkite's hosts."""

    rules: tuple[Rule, ...]
    colors: Mapping[str, str]
    hosts: frozenset[str] = frozenset({BUILDKITE})

    @property
    def digest(self) -> str:
        """16 hex digits that change with the rules, but not with colours."""
        return _digest(self.rules, sorted(self.hosts))

    def digest_with(self, regressions: Iterable[Regression]) -> str:
        """Return the digest, which other regressions of a day change too."""
        found = sorted(map(repr, regressions))
        return _digest(self.digest, found) if found else self.digest

    @property
    def use_regressions(self) -> bool:
        """Whether a rule has `regression = true`."""
        return any(rule.regression for rule in self.rules)

    @property
    def datasets(self) -> set[str]:
        """The datasets of all rules."""
        return {rule.dataset for rule in self.rules}

    def colors_in(self, dataset: str) -> dict[str, str]:
        """Return the colours of the types of markers in the dataset."""
        types = {rule.type for rule in self.rules if rule.dataset == dataset}
        return {kind: color for kind, color in self.colors.items() if kind in types}


def _digest(*values: object) -> str:
    return sha256(repr(values).encode()).hexdigest()[:16]


class Regression(NamedTuple):
    """A change for the worse.

    Attributes:
        build_id: The UUID of the first build on the new side.
        name: Distinguishes it from other changes that began with the same build.
        values: The values of `REGRESSION_FIELDS`, as text; a missing one is None.
    """

    build_id: str
    name: str
    values: Mapping[str, str | None]


class Marker(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All settable fields of a marker, as in the API. Times are Unix seconds.

    An update sends all of them, because Honeycomb erases those that are left out.
    """

    start_time: int
    end_time: int | None = None
    type: str
    message: str
    url: str | None = None

    @property
    def digest(self) -> bytes:
        """8 bytes that change with any field."""
        return sha256(msgspec.json.encode(self)).digest()[:8]


class ListedMarker(msgspec.Struct, frozen=True, kw_only=True):
    """A marker as listed by Honeycomb; others may have created it without some fields."""

    id: str
    start_time: int | None = None
    end_time: int | None = None
    type: str | None = None
    message: str | None = None
    url: str | None = None

    def equals(self, marker: Marker) -> bool:
        """Return whether all fields equal those of `marker`."""
        return self.marks_the_same(marker) and (self.end_time or None, self.message or "") == (
            marker.end_time,
            marker.message,
        )

    def marks_the_same(self, marker: Marker) -> bool:
        """Return whether type, URL and start equal those of `marker`.

        A build's message and end may have changed since the marker was placed, but not its URL and
        start.
        """
        fields = (self.type, self.url or None, self.start_time)
        return fields == (marker.type, marker.url, marker.start_time)


class Subject(NamedTuple):
    """What a marker is about: a rule, in a dataset, and the span of a build or job.

    `rule` is the rule's id. For a regression it is followed by a slash, which ids cannot have, and
    the regression's name, because a build may be the first one of several.
    """

    rule: str
    dataset: str
    trace_id: bytes
    span_id: bytes

    @property
    def rule_id(self) -> str:
        """The id of the rule."""
        return self.rule.partition("/")[0]


def subject_of(placed: PlacedMarker) -> Subject:
    """Return the subject of a recorded marker."""
    return Subject(placed.rule, placed.dataset, placed.trace_id, placed.span_id)


# The messages for values that do not match a pattern.
EXPECTED = {
    "id": EXPECTED_ID,
    "dataset": "expected a dataset's name, without a slash, or __all__ for the environment.",
    "url": "expected https://, a host and a slash, or a field with a Buildkite URL, at the start.",
    "colors": "expected a colour like #7b1fa2.",
}


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: tuple[Rule, ...] = ()
    colors: dict[str, Color] = {}


def load_rules(path: FilePath, *, dataset: str, hosts: Collection[str] = (BUILDKITE,)) -> Rules:
    """Read the rules in the file at `path`.

    Args:
        path: The file.
        dataset: The name of the default dataset.
        hosts: Hosts of Buildkite's pages.

    Raises:
        ConfigError: The file cannot be read or has errors; the message has a line for each.
    """
    file = read_rules(
        path,
        _File,
        Rule,
        setting="BK_PIPELINE_MARKERS",
        page="docs/markers.md",
        expected=EXPECTED,
        check=_rule_errors,
    )
    return Rules(
        tuple(
            rule.model_copy(update={"dataset": marker_dataset(rule.dataset or dataset)})
            for rule in file.rule
        ),
        {kind: color.lower() for kind, color in file.colors.items()},
        frozenset(hosts),
    )


def marker_dataset(name: str) -> str:
    """Return the slug of a dataset's name, as in the API; `__all__` stays as it is."""
    return name if name == ALL_DATASETS else dataset_slug(name)


def _rule_errors(file: _File) -> Iterator[tuple[Path, str]]:
    """Yield the errors of rules that are well-formed."""
    yield from repeated_ids(rule.id for rule in file.rule)
    yield from misplaced_conditions(file.rule)
    for number, rule in enumerate(file.rule):
        if rule.regression and rule.on != "build":
            yield (RULE, number, "regression"), 'is a condition on builds; set on = "build".'
        for field in ("message", "url"):
            template = getattr(rule, field)
            for name in template.names if template else ():
                message = _field_error(name, rule)
                if message:
                    yield (RULE, number, field), message
        if rule.url is not None and rule.url.host == "":
            yield (RULE, number, "url"), EXPECTED["url"]


def _field_error(name: str, rule: Rule) -> str | None:
    """Return what is wrong with a field of a template, or None."""
    if not name.startswith(REGRESSION):
        return field_error(name, rule.kind)
    if not rule.regression:
        return f"{{{name}}} exists in rules with regression = true only."
    if name in REGRESSION_FIELDS:
        return None
    [similar] = get_close_matches(name, REGRESSION_FIELDS, n=1, cutoff=0)
    return f"there is no field {{{name}}}; did you mean {{{similar}}}?"
