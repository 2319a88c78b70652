from __future__ import annotations

import pytest

from bk_pipeline.honeycomb.rules import Template, complaint
from bk_pipeline.spans.model import SpanKind

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
        ("{buildkite.job.wait_time_ms}", {WAIT: 245_000}, "4 m 05 s"),
        ("{buildkite.job.started}", {"buildkite.job.started": False}, "false"),
        ("{buildkite.agent.meta_data}", {"buildkite.agent.meta_data": ["a=b"]}, '["a=b"]'),
        ("{buildkite.build.meta_data.rel}", {"buildkite.build.meta_data.rel": "v1"}, "v1"),
        ("no fields", {}, "no fields"),
    ],
    ids=[
        "field", "braces", "spaces", "missing", "empty", "first line", "not a template itself",
        "cut", "duration", "boolean", "list", "a key of a map", "plain",
    ],
)  # fmt: skip
def test_a_message_has_the_values_in_the_place_of_the_fields(text, attributes, message):
    assert Template(text).message(attributes) == message


@pytest.mark.parametrize(
    ("text", "attributes", "url"),
    [
        ("{buildkite.build.web_url}", {URL: "https://bk/a?b=c"}, "https://bk/a?b=c"),
        ("https://d/{buildkite.build.message}", {MESSAGE: "a b/ä"}, "https://d/a%20b%2F%C3%A4"),
        ("https://d/{buildkite.build.number}", {NUMBER: 7}, "https://d/7"),
        ("https://d/{buildkite.build.number}", {}, None),
    ],
    ids=["an address", "escaped", "number", "missing"],
)
def test_a_url_has_its_values_escaped_unless_one_is_its_beginning(text, attributes, url):
    assert Template(text).url(attributes) == url


@pytest.mark.parametrize("text", ["{", "a } b", "{a{b}", "{{}"])
def test_a_lone_brace_is_an_error(text):
    with pytest.raises(ValueError, match=r"brace at character \d+ has no partner"):
        Template(text)


def test_fields_that_are_not_or_are_elsewhere_are_told():
    assert complaint(NUMBER, SpanKind.JOB) is None
    assert complaint("buildkite.build.meta_data.release", SpanKind.BUILD) is None
    assert complaint("buildkite.build.nmber", SpanKind.BUILD) == (
        "there is no field {buildkite.build.nmber}; did you mean {buildkite.build.number}?"
    )
    assert complaint("zzz", SpanKind.BUILD) == (
        "there is no field {zzz}; docs/spans.md lists them."
    )
    assert complaint("buildkite.build.meta_data.*", SpanKind.JOB) is not None
    assert complaint("buildkite.job.label", SpanKind.BUILD) == (
        "{buildkite.job.label} stands on job spans only, and this rule is about builds."
    )
