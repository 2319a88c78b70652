"""The rules that say what is a deployment and what a rollback, from a TOML file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Literal

from pydantic import BaseModel, ConfigDict

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

PIPELINE_SLUG = Template("{buildkite.pipeline.slug}")
TEMPLATES = ("environment", "service", "committed_at")


class Rule(KindConditions):
    """One `[[rule]]` of the file. Of several that match a build or job, the first counts.

    `environment`, `service` and `committed_at` are templates; the last one's value is the time of
    the commit, in ISO 8601 or as Unix seconds.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    on: Literal["build", "job"] = "job"
    environment: Parsed
    service: Parsed = PIPELINE_SLUG
    committed_at: Parsed | None = None
    rollback: bool = False

    @property
    def templates(self) -> dict[str, Template]:
        """The templates that are set, by key."""
        return {name: one for name in TEMPLATES if (one := getattr(self, name)) is not None}


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: tuple[Rule, ...] = ()


def load_deployment_rules(path: FilePath) -> tuple[Rule, ...]:
    """Read the rules in the file at `path`.

    Raises:
        ConfigError: The file cannot be read or has errors; the message has a line for each.
    """
    file = read_rules(
        path,
        _File,
        Rule,
        setting="BK_PIPELINE_DEPLOYMENTS",
        page="docs/deployments.md",
        expected={"id": EXPECTED_ID},
        check=_rule_errors,
    )
    return file.rule


def _rule_errors(file: _File) -> Iterator[tuple[Path, str]]:
    """Yield the errors of rules that are well-formed."""
    if not file.rule:
        yield (RULE,), "there is no [[rule]]."
    yield from repeated_ids(rule.id for rule in file.rule)
    yield from misplaced_conditions(file.rule)
    for number, rule in enumerate(file.rule):
        for key, template in rule.templates.items():
            for name in template.names:
                message = field_error(name, rule.kind)
                # A job's rule may also name what only its build's span has.
                if message and field_error(name, SpanKind.BUILD):
                    yield (RULE, number, key), message
