"""Templates of marker messages and URLs."""

from __future__ import annotations

import pytest

from bk_pipeline.spans.model import SpanKind
from bk_pipeline.templates import Template, field_error

NUMBER, MESSAGE = "buildkite.build.number", "buildkite.build.message"
WAIT, URL = "buildkite.job.wait_time_ms", "buildkite.build.web_url"


@pytest.mark.parametrize(
    ("text", "attributes", "message"),
    [
        ("web {buildkite.build.number} ok", {NUMBER: 7}, "web 7 ok"),
        ("{{{buildkite.build.number}}}", {NUMBER: 7}, "{7}"),
        ("{ buildkite.build.number }", {NUMBER: 7}, "7"),
        ("{buildkite.build.number}", {}, "-"),
        ("{buildkite.build.message}", {MESSAGE: ""}, "-"),
        ("{buildkite.build.message}", {MESSAGE: "one\n\ntwo"}, "one"),
        ("{buildkite.build.message}", {MESSAGE: "{buildkite.build.number} %s"}, "{buildkite.build.number} %s"),
        ("{buildkite.build.message}", {MESSAGE: "x" * 300}, "x" * 199 + "…"),
        ("{buildkite.build.message}", {MESSAGE: "a\x1b[2J\u202eb"}, "a[2Jb"),
        ("{buildkite.job.wait_time_ms}", {WAIT: 245_000}, "4 m 05 s"),
        ("{buildkite.job.started}", {"buildkite.job.started": False}, "false"),
        ("{buildkite.agent.meta_data}", {"buildkite.agent.meta_data": ["a=b"]}, '["a=b"]'),
        ("{buildkite.build.meta_data.rel}", {"buildkite.build.meta_data.rel": "v1"}, "v1"),
        ("no fields", {}, "no fields"),
    ],
    ids=[
        "field", "braces", "spaces", "missing", "empty", "first line", "not a template itself",
        "truncated", "escape sequences", "duration", "boolean", "list", "a key of a map", "plain",
    ],
)  # fmt: skip
def test_message_has_field_values(text, attributes, message):
    assert Template(text).message(attributes) == message


@pytest.mark.parametrize(
    ("text", "attributes", "url"),
    [
        ("{buildkite.build.web_url}", {URL: "https://bk/a?b=c"}, "https://bk/a?b=c"),
        ("{buildkite.build.web_url}", {URL: "http://bk/a"}, None),
        ("{buildkite.build.web_url}", {URL: "https://evil.example/a"}, None),
        ("{buildkite.build.web_url}", {URL: "javascript:alert(1)"}, None),
        ("{buildkite.build.web_url}/a", {URL: "https://bk@evil.example"}, None),
        ("https://bk{buildkite.build.message}", {MESSAGE: ".evil.example"}, None),
        ("http://d/{buildkite.build.number}", {NUMBER: 7}, None),
        ("https://d/{buildkite.build.message}", {MESSAGE: "a b/ä"}, "https://d/a%20b%2F%C3%A4"),
        ("https://d/{buildkite.build.number}", {NUMBER: 7}, "https://d/7"),
        ("https://d/{buildkite.build.number}", {}, None),
    ],
    ids=[
        "an address",
        "http",
        "another host",
        "a script",
        "user",
        "part of the host",
        "http host",
        "escaped",
        "number",
        "missing",
    ],
)
def test_url_values_are_escaped_except_at_the_start(text, attributes, url):
    assert Template(text).url(attributes, {"bk"}) == url


@pytest.mark.parametrize("text", ["{", "a } b", "{a{b}", "{{}"])
def test_unbalanced_brace_is_an_error(text):
    with pytest.raises(ValueError, match=r"brace at character \d+ is unbalanced"):
        Template(text)


def test_unknown_or_unavailable_fields_are_reported():
    assert field_error(NUMBER, SpanKind.JOB) is None
    assert field_error("buildkite.build.meta_data.release", SpanKind.BUILD) is None
    assert field_error("buildkite.build.nmber", SpanKind.BUILD) == (
        "there is no field {buildkite.build.nmber}; did you mean {buildkite.build.number}?"
    )
    assert field_error("zzz", SpanKind.BUILD) == (
        "there is no field {zzz}; docs/spans.md lists them."
    )
    assert field_error("buildkite.build.meta_data.*", SpanKind.JOB) is not None
    assert field_error("buildkite.job.label", SpanKind.BUILD) == (
        "{buildkite.job.label} exists on job spans only, but this rule is about builds."
    )
