"""Read the TOML file of marker rules, and report every error with its line."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path as FilePath

from pydantic import BaseModel, ConfigDict

from bk_pipeline.display import BUILDKITE
from bk_pipeline.honeycomb.account import dataset_slug
from bk_pipeline.honeycomb.rules import ALL_DATASETS, Color, Rule, Rules, field_error
from bk_pipeline.rules import CONDITIONS, EXPECTED_ID, RULE, Path, read_rules, repeated_ids

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
    for number, rule in enumerate(file.rule):
        for name in rule.globs():
            if rule.kind not in CONDITIONS[name]:
                yield (RULE, number, name), 'is a condition on jobs; set on = "job" too.'
        for field in ("message", "url"):
            template = getattr(rule, field)
            for name in template.names if template else ():
                message = field_error(name, rule.kind)
                if message:
                    yield (RULE, number, field), message
        if rule.url is not None and rule.url.host == "":
            yield (RULE, number, "url"), EXPECTED["url"]
