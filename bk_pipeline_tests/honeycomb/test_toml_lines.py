"""The line numbers of values in a TOML file."""

from __future__ import annotations

import pytest

from bk_pipeline.rules import line_of

FILE = '''\
# Rules.

[colors]
deploy = "#7b1fa2"

[[rule]]
id = "one"
message = """
{buildkite.build.number}
x = 1 is no key here"""
pipeline = [
  "web",  # a comment

  "api",
]
url = "https://a"

[[rule]]
id = "two"
colors = { deploy = 1 }
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("colors",), 3),
        (("colors", "deploy"), 4),
        (("rule",), 6),
        (("rule", 0, "id"), 7),
        (("rule", 0, "message"), 8),
        (("rule", 0, "pipeline"), 11),
        (("rule", 0, "pipeline", 1), 11),
        (("rule", 0, "url"), 16),
        (("rule", 1), 18),
        (("rule", 1, "id"), 19),
        (("rule", 1, "colors", "deploy"), 20),
        (("rule", 1, "missing"), 18),
        (("nowhere",), 1),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_line_is_where_a_value_starts_or_a_missing_one_belongs(path, line):
    assert line_of(FILE, path) == line
