from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bk_pipeline.buildkite.elements import Split, split_elements, split_leniently
from bk_pipeline.buildkite.paging import Paging
from bk_pipeline.buildkite.records import read_build
from bk_pipeline.errors import RecordError, ServiceUnavailable
from bk_pipeline_tests.buildkite.listed import DAY, WHOLE_DAY, build, numbers
from bk_pipeline_tests.http.scripted import Answer

GOLDEN = Path(__file__).parents[1] / "golden"
PAYLOADS = [
    json.dumps(json.loads(path.read_text()), ensure_ascii=False, separators=(",", ":")).encode()
    for path in sorted(GOLDEN.glob("*.json"))
    if not path.name.endswith(".spans.json")
]
# Values that make a strict parser reject the page, or that no field expects.
ODD = {
    "surrogate": rb'"abc\ud83d"',
    "no utf-8": b'"\xff\xfe"',
    "control": b'"a\nb\x00c"',
    "nan": b"NaN",
    "infinity": b"-Infinity",
    "bom": b"\xef\xbb\xbf1",
    "nested": b"[" * 1_000 + b"]" * 1_000,
    "nested objects": b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    "huge": b"1e999",
    "digits": b"9" * 5_000,
    "escape": rb'"\x"',
    "word": b"undefined",
    "duplicate": b'1,"odd":2',
    "left out": b"",
}
REPAIRED = {"surrogate", "no utf-8", "control", "huge", "digits", "duplicate"}
NOT_BUILDS = [b"null", b"7", b'"x"', b"[]", b"{}", b"NaN", b"\xff", b'{"id":"b-9"', b'"never', b"}"]


def page(*elements: bytes) -> bytes:
    return b"[" + b",".join(elements) + b"]"


def text(number: int, odd: bytes | None = None) -> bytes:
    whole = json.dumps(build(number, number)).encode()
    return whole if odd is None else whole[:-1] + b', "odd": ' + odd + b"}"


@st.composite
def mutated(draw: st.DrawFn, element: bytes) -> bytes:
    """`element` with some of its bytes replaced, inserted or removed."""
    at = draw(st.integers(0, len(element) - 1))
    gone = draw(st.sampled_from([0, 1, 1, 1, 2, 40, len(element)]))
    new = draw(
        st.sampled_from([b"", b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", *ODD.values()])
    )
    return element[:at] + new + element[at + gone :]


@st.composite
def with_an_odd_value(draw: st.DrawFn, element: bytes) -> bytes:
    """`element` with one of its values, at any depth, replaced by one of `ODD`."""
    whole = holder = json.loads(element)
    while True:
        key = draw(
            st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder)))
        )
        if not isinstance(holder[key], dict | list) or not holder[key] or draw(st.booleans()):
            break
        holder = holder[key]
    holder[key] = "@odd@"
    return json.dumps(whole).encode().replace(b'"@odd@"', draw(st.sampled_from([*ODD.values()])))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_mutated_element_does_not_affect_the_others(data):
    elements = data.draw(st.lists(st.sampled_from(PAYLOADS), min_size=1, max_size=4, unique=True))
    which = data.draw(st.integers(0, len(elements) - 1))
    how = data.draw(st.sampled_from([mutated, with_an_odd_value]))
    odd = data.draw(how(elements[which]))

    split = split_elements(page(*elements[:which], odd, *elements[which + 1 :]))

    assert split is not None
    assert split.closed
    others = [one for one in elements if one != elements[which]]
    assert [one for one in split.elements if one in others] == others, odd[:200]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([*PAYLOADS, b"null", b"[1, 2]", b'"]"']), max_size=4))
def test_strict_and_lenient_splitting_agree(elements):
    body = page(*elements)
    assert split_elements(body) == split_leniently(body) == Split(elements)


@pytest.mark.parametrize("odd", ODD)
def test_odd_value_in_a_build_does_not_affect_the_others(server, client, odd):
    """The build is read if there is a standard way to, else it is quarantined with its id."""
    elements = text(3), text(2, ODD[odd]), text(1)
    server.otherwise = Answer(body=page(*elements))

    [found] = client.iter_builds(WHOLE_DAY)

    expected = [3, 2, 1] if odd in REPAIRED else [3, 1]
    assert [one.number for one in found.builds] == expected
    assert [one.payload for one in found.builds if one.number != 2] == [elements[0], elements[2]]
    assert [str(one).partition(":")[0] for one in found.quarantined] == (
        [] if odd in REPAIRED else [build(2)["id"]]
    )
    finished = client.iter_finished(WHOLE_DAY, finished_from=DAY, max_pages=1)
    assert [one.number for one in finished] == expected
    assert [one.number for one in client.sample(WHOLE_DAY).builds] == expected


@pytest.mark.parametrize("odd", ODD)
def test_odd_value_in_a_single_build(server, client, odd):
    server.otherwise = Answer(body=text(2, ODD[odd]))
    if odd in REPAIRED:
        assert client.build("web", 2).payload == text(2, ODD[odd])
    else:
        with pytest.raises(RecordError, match=build(2)["id"]):
            client.build("web", 2)
    assert len(server.requests) == 1


@pytest.mark.parametrize("odd", NOT_BUILDS)
@pytest.mark.parametrize("where", [0, 1, 2], ids=["first", "middle", "last"])
def test_only_the_element_that_is_not_a_build_is_quarantined(server, client, odd, where):
    elements = [text(2), text(1)]
    elements.insert(where, odd)
    server.otherwise = Answer(body=page(*elements))

    [found] = client.iter_builds(WHOLE_DAY)

    assert [one.number for one in found.builds] == [2, 1]
    assert len(found.quarantined) <= 2
    if odd != b"}" or where:
        assert found.quarantined


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"\xef\xbb\xbf", b""), (b"\n\xef\xbb\xbf ", b"\n"), (b"", b"\x00\x00"), (b"", b"<!-- p -->")],
    ids=["bom", "bom amid space", "nul bytes", "garbage"],
)
def test_bytes_around_a_page_are_ignored(server, client, before, after):
    server.otherwise = Answer(body=before + page(text(2), text(1)) + after)
    assert numbers(client.iter_builds(WHOLE_DAY)) == [2, 1]
    server.otherwise = Answer(body=before + text(1) + after)
    assert client.build("web", 1).number == 1


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_truncated_page_is_requested_again(server, connect, cut):
    client = connect(server.url, paging=Paging(links=True))
    whole = page(text(2), text(1))
    server.replies.append(Answer(body=whole[:-cut]))
    server.otherwise = Answer(body=whole)
    assert numbers(client.iter_builds(WHOLE_DAY)) == [2, 1]
    assert len(server.requests) == 2


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_page_that_stays_truncated_is_never_taken_for_complete(server, connect, cut):
    client = connect(server.url, paging=Paging(links=True))
    server.otherwise = Answer(body=page(text(2), text(1))[:-cut])
    with pytest.raises(ServiceUnavailable, match="cut short"):
        list(client.iter_builds(WHOLE_DAY))


def test_page_with_a_broken_last_build_is_requested_again_once(server, connect):
    """A page that is truncated after an inner bracket ends like a complete one."""
    client = connect(server.url, paging=Paging(links=True))
    whole = page(text(3), text(2), text(1))
    server.replies.append(Answer(body=whole[: whole.rindex(b'"jobs": []') + len(b'"jobs": []')]))
    server.otherwise = Answer(body=whole)
    assert numbers(client.iter_builds(WHOLE_DAY)) == [3, 2, 1]

    server.otherwise = Answer(body=page(text(3), text(2)[:-1]))
    [found] = client.iter_builds(WHOLE_DAY)
    assert [one.number for one in found.builds] == [3]
    assert str(found.quarantined[0]).startswith(build(2)["id"])
    assert len(server.requests) == 4


def test_adjacent_broken_elements_each_keep_their_id():
    odd = [text(n, value) for n, value in enumerate(ODD.values(), 1)]
    split = split_elements(page(*odd))
    assert split is not None
    for number, element in enumerate(split.elements, 1):
        try:
            found = read_build(element).id
        except RecordError as error:
            found = error.record_id
        assert found == build(number)["id"]
    assert len(split.elements) == len(odd)
