"""A rule: which builds or jobs become markers, and what those say.

To add a condition: a field of `Rule` and its line in `CONDITIONS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from bk_pipeline.markers.template import Template
from bk_pipeline.spans.model import SpanKind

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
