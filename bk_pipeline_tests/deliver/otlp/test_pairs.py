"""Parsing of headers and resource attributes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.util.re import parse_env_headers

from bk_pipeline.deliver.otlp.variables import headers
from bk_pipeline.deliver.resource import attributes
from bk_pipeline.errors import ConfigError

names = st.text("abcXYZ019-_.", min_size=1)
# Names that the official parser accepts in strict mode.
encoded = st.text("abcXYZ019-_.~!*+/=:%", min_size=1).filter(
    lambda text: text.isascii() and "%" not in text
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("a=1", {"a": "1"}),
        ("a=1,b=2", {"a": "1", "b": "2"}),
        (" a = 1 ,\tb=2 ", {"a": "1", "b": "2"}),
        ("a=1,,b=2,", {"a": "1", "b": "2"}),
        ("a=1,A=2", {"a": "2"}),
        ("X-Scope-OrgID=team-a", {"x-scope-orgid": "team-a"}),
        ("authorization=Basic%20dXNlcjpwYXNz%3D%3D", {"authorization": "Basic dXNlcjpwYXNz=="}),
        ("authorization=Basic dXNlcjpwYXNz==", {"authorization": "Basic dXNlcjpwYXNz=="}),
        ("a=1%2C2%3b3", {"a": "1,2;3"}),
        ("a=100%", {"a": "100%"}),
    ],
    ids=lambda value: repr(value) if isinstance(value, str) else "",
)
def test_headers_are_parsed_as_specified(text, found):
    assert headers("X_HEADERS", text) == found


@given(st.dictionaries(names, encoded, max_size=4))
def test_headers_equal_those_of_the_official_parser(pairs):
    text = ",".join(f"{name}={value}" for name, value in pairs.items())

    assert headers("X_HEADERS", text) == parse_env_headers(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "pair 1 of 1 is not key=value"),
        ("a=1,secret", "pair 2 of 2 is not key=value"),
        ("=secret", "pair 1 of 1 is not key=value"),
        ("a b=secret", "the name of pair 1"),
        ("ä=secret", "the name of pair 1"),
        ("a=1,c2secret=", "pair 2 of 2 has no value"),
        ("secret=x;y", "the value of pair 1 of 1 cannot be sent"),
        ("x-key='secret'", "pair 1 of 1 has quotes"),
        ("x-key=secret”", "pair 1 of 1 has quotes"),
        ("'x-key=secret", "pair 1 of 1 has quotes"),
        ('a="secret"', "percent-encode"),
        ("a=secret%0Ax", "percent-encode"),
        ("a=secret-é", "percent-encode"),
        ("a=secret%FF", "not UTF-8"),
    ],
)
def test_malformed_pair_is_named_by_position_without_its_value(text, message):
    with pytest.raises(ConfigError, match=f"^X_HEADERS: .*{message}") as caught:
        headers("X_HEADERS", text)

    assert "secret" not in str(caught.value)


def test_resource_attributes_may_be_any_text_including_keys():
    found = attributes("X_ATTRIBUTES", "k%3D1=a%2Cb,empty=,plain=x y=z,emoji=%F0%9F%9A%80")

    assert found == {"k=1": "a,b", "empty": "", "plain": "x y=z", "emoji": "🚀"}


@pytest.mark.parametrize("text", ["a", "=b", "a=%FF", 'a="b"', "a='b"])
def test_malformed_resource_attributes_are_rejected(text):
    with pytest.raises(ConfigError, match="X_ATTRIBUTES: pair 1 of 1"):
        attributes("X_ATTRIBUTES", text)
