"""Reading profiles: what becomes a span, where it is laid, and what is hostile."""

from __future__ import annotations

import gzip
import json
import time
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bk_pipeline.sources import trace_events
from bk_pipeline.sources.model import JobTimes
from bk_pipeline.sources.profile import read_profile
from bk_pipeline.sources.profile_events import EventPolicy
from bk_pipeline.spans.model import SpanKind
from bk_pipeline_tests.sources.artifact_goldens import JOB, NOON_NS, SECOND_NS, samples
from bk_pipeline_tests.sources.found import check, cuts, split, unhurried

EVERYTHING = EventPolicy(min_ms=0, max_depth=1_000, max_events=100_000)
NOON_US = NOON_NS // 1_000


def read(content, policy=EVERYTHING, job=JOB):
    if not isinstance(content, bytes):
        content = json.dumps(content).encode()
    profile = read_profile([content], job, path="a.json", events=policy)
    check(profile.spans, job)
    return profile


def event(ts, dur, name="e", **fields):
    return {"name": name, "ph": "X", "ts": ts, "dur": dur, "pid": 1, "tid": 1} | fields


def events_of(profile):
    return [span for span in profile.spans if span.kind == SpanKind.EVENT]


def names_of(profile):
    return [span.attributes["bk_pipeline.profile.name"] for span in events_of(profile)]


def start_s(span):
    return (span.start_ns - NOON_NS) / SECOND_NS


# Which events


def test_events_nest_by_containment():
    rows = [
        event(0, 100, "a"),
        event(10, 50, "b"),
        event(20, 10, "c"),
        event(60, 40, "d"),
        event(50, 15, "overlaps"),
        event(100, 5, "after"),
    ]
    profile = read(rows[::-1])
    tree = {
        span.attributes["bk_pipeline.profile.name"]: (
            span.attributes["bk_pipeline.profile.depth"],
            profile.spans[span.parent].attributes.get("bk_pipeline.profile.name"),
        )
        for span in events_of(profile)
    }
    assert tree == {
        "a": (0, None),
        "b": (1, "a"),
        "c": (2, "b"),
        "overlaps": (1, "a"),
        "d": (1, "a"),
        "after": (0, None),
    }


def test_ends_that_were_rounded_apart_still_nest():
    profile = read([event(0, 1000.4), event(0.25, 1000.5)])
    first, second = events_of(profile)
    assert second.parent == profile.spans.index(first)
    assert second.end_ns == first.end_ns


def test_policy_keeps_the_longest_events_that_are_not_too_deep():
    rows = [event(i * 1_000_000, 10_000 * (i + 1), f"outer {i}") for i in range(10)]
    rows += [event(i * 1_000_000, 9_000 * (i + 1), f"inner {i}") for i in range(10)]
    profile = read(rows, EventPolicy(min_ms=30, max_depth=1, max_events=3))
    assert names_of(profile) == ["outer 7", "outer 8", "outer 9"]
    assert (profile.events, profile.too_short, profile.too_deep, profile.left_out) == (20, 5, 7, 5)


def test_identities_do_not_depend_on_the_policy():
    rows = [event(i * 10_000, 1_000 * (i % 7), f"{i}") for i in range(50)]
    every = {
        span.identity: span.attributes["bk_pipeline.profile.name"] for span in events_of(read(rows))
    }
    some = read(rows, EventPolicy(min_ms=4, max_events=5))
    assert len(events_of(some)) == 5
    assert all(
        every[span.identity] == span.attributes["bk_pipeline.profile.name"]
        for span in events_of(some)
    )


def test_more_candidates_than_are_kept(monkeypatch):
    monkeypatch.setattr("bk_pipeline.sources.profile_events._LEAST_CANDIDATES", 20)
    rows = [event(i * 10_000, (i * 37) % 101, f"{i}") for i in range(2_000)]
    profile = read(rows, EventPolicy(min_ms=0.01, max_events=5))
    assert sorted(span.end_ns - span.start_ns for span in events_of(profile)) == [100_000] * 5
    assert [int(name) for name in names_of(profile)] == sorted(
        int(name) for name in names_of(profile)
    )[:5]
    assert profile.events == 2_000 == 5 + profile.left_out + profile.too_short


def test_pairs_of_begin_and_end():
    rows = [
        {"ph": "B", "ts": 0, "name": "a", "pid": 1, "tid": 1},
        {"ph": "B", "ts": 10, "name": "b", "pid": 1, "tid": 2},
        {"ph": "B", "ts": 20, "name": "c", "pid": 1, "tid": 1},
        {"ph": "E", "ts": 30, "pid": 1, "tid": 1},
        {"ph": "E", "ts": 40, "pid": 1, "tid": 2},
        {"ph": "E", "ts": 50, "pid": 1, "tid": 1},
        {"ph": "E", "ts": 60, "pid": 1, "tid": 1},
        {"ph": "B", "ts": 70, "name": "open", "pid": 1, "tid": 1},
    ]
    profile = read(rows)
    found = {
        one.attributes["bk_pipeline.profile.name"]: one.end_ns - one.start_ns
        for one in events_of(profile)
    }
    assert found == {"a": 50_000, "c": 10_000, "b": 30_000}
    assert profile.unreadable == 2


def test_threads_have_names_and_ids():
    rows = [
        event(0, 10, pid=1, tid=1), event(0, 10, pid=1, tid=2.0), event(0, 10, pid="p", tid="t"), event(0, 10, pid=3, tid=None),
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": 2, "args": {"name": "worker"}},
        {"ph": "M", "name": "process_name", "pid": 3, "args": {"name": "bazel"}},
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": 1, "args": {"name": 7}},
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": 1},
    ]  # fmt: skip
    found = [span.attributes for span in read(rows).spans if span.kind == SpanKind.THREAD]
    for one in found:
        assert one.pop("bk_pipeline.artifact.path") == "a.json"
    assert found == [
        {"thread.id": 1, "process.pid": 1},
        {"thread.name": "worker", "thread.id": 2, "process.pid": 1},
        {"thread.name": "bazel", "process.pid": 3},
        {"thread.name": "t"},
    ]


def test_two_artifacts_of_the_same_path_have_different_spans():
    content = json.dumps([event(0, 5)]).encode()
    one, two = (
        read_profile([content], JOB, path="a.json", events=EVERYTHING, artifact_id=artifact)
        for artifact in ("id-1", "id-2")
    )
    assert {span.identity for span in one.spans}.isdisjoint(span.identity for span in two.spans)
    assert one.spans[0].attributes["bk_pipeline.artifact.path"] == "a.json"


def test_no_text_leaves_if_it_may_not():
    rows = [
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": 1, "args": {"name": "hidden"}},
        event(0, 5, "hidden", cat="hidden"),
        event(0, 5, "hidden", tid="hidden"),
    ]
    content = json.dumps(rows).encode()
    profile = read_profile([content], JOB, path="a.json", events=EVERYTHING, text=False)
    assert "hidden" not in str([span.attributes for span in profile.spans])
    assert [span.attributes.get("thread.id") for span in profile.spans] == [1, None, None, None]


def test_names_are_masked_and_truncated():
    secret = "ghp_abcdefghijABCDEFGHIJ0123456789abcdef"
    profile = read([event(0, 5, f"curl {secret}", cat=secret), event(6, 5, "x" * 3_000)])
    assert secret not in str(profile)
    assert names_of(profile) == ["curl [masked]", "x" * 500 + "…"]


# Where they are laid


@pytest.mark.parametrize(
    ("header", "first_us", "seconds", "guessed"),
    [
        ({}, NOON_US + 10e6, 10, False),
        ({}, NOON_US - 2e6, 0, True),  # a clock that is 2 s off
        ({}, 123e6, 0, True),
        ({}, -5e6, 0, True),
        ({}, NOON_US + 3_600e6, 0, True),
        ({"otherData": {"profile_start_ts": NOON_US / 1_000 + 20_500}}, 1e6, 21.5, False),
        ({"otherData": {"profile_start_ts": str(NOON_US // 1_000)}}, 0, 0, False),
        ({"otherData": {"date": "Fri Nov 20 12:00:30 UTC 2026"}}, 1e6, 31, True),
        ({"otherData": {"date": "Thu Nov 19 12:00:30 UTC 2026"}}, 1e6, 0, True),
        ({"otherData": {"date": "long ago"}}, 1e6, 0, True),
        ({"otherData": [1]}, 1e6, 0, True),
        ({"beginningOfTime": NOON_US + 40e6}, 2e6, 42, False),
        ({"beginningOfTime": "soon"}, 2e6, 0, True),
        ({"beginningOfTime": 1e300}, 2e6, 0, True),
    ],
)
@pytest.mark.parametrize("header_first", [True, False])
def test_origin_of_times(header, first_us, seconds, guessed, header_first):
    rows = {"traceEvents": [event(first_us, 1e6), event(first_us + 1e6, 1e6)]}
    profile = read({**header, **rows} if header_first else {**rows, **header})
    first, second = events_of(profile)
    assert (start_s(first), first.guessed) == (pytest.approx(seconds, abs=1e-6), guessed)
    assert second.start_ns - first.start_ns == SECOND_NS
    assert profile.spans[0].guessed == guessed


def test_profile_longer_than_the_job_is_cut_off():
    profile = read([event(0, 200e6, "in"), event(250e6, 100e6, "half"), event(310e6, 5e6, "out")])
    assert [(start_s(one), (one.end_ns - NOON_NS) / SECOND_NS) for one in events_of(profile)] == [
        (0, 200),
        (250, 300),
    ]
    assert profile.outside == 1
    assert all(span.guessed for span in profile.spans)


# What cannot be read


@pytest.mark.parametrize(
    ("content", "names", "unreadable", "problem"),
    [
        (b"", [], 0, "it is empty"),
        (b" \n", [], 0, "it is empty"),
        (b"<html>", [], 0, "it is not JSON"),
        (b"\x00\x01", [], 0, "it is not JSON"),
        (b"[]", [], 0, None),
        (b"[", [], 0, None),
        (b"{}", [], 0, "it has no array traceEvents"),
        (b"{", [], 0, "it ends early"),
        (b'{"traceEvents":[', [], 0, "it ends early"),
        (b'{"traceEvents":3}', [], 0, "it has no array traceEvents"),
        (b'{"traceEvents":{"a":[1]},"x":[{"ph":"X"}]}', [], 0, "it has no array traceEvents"),
        (b'{"a" 1}', [], 0, "it is not well-formed JSON"),
        (b"[}", [], 0, "it is not well-formed JSON"),
        (b"[%s", ["e"], 0, None),
        (b"[%s,\n", ["e"], 0, None),
        (b"\xef\xbb\xbf[%s]", ["e"], 0, None),
        (b'[%s,{"ph":"X","ts":1,"du', ["e"], 0, "it ends early"),
        (b"[%s,%s] and more", ["e", "e"], 0, None),
        (b'{"x":"\\"}]","traceEvents":[%s]', ["e"], 0, "it ends early"),
        (b'{"x":[1,{"y":"["}],"traceEvents":[%s],"z":tr', ["e"], 0, "it ends early"),
        (b'[1,"two",null,[%s],%s]', ["e"], 4, None),
        (b'[{"ph":"X","ts":NaN,"dur":1},%s]', ["e"], 1, None),
        (b'[{"ph":"X","ts":1e999,"dur":1},%s]', ["e"], 1, None),
        (b'[{"ph":"X","ts":"1e999","dur":"nan"},%s]', ["e"], 1, None),
        (b'[{"ph":"X","ts":1e18,"dur":1},{"ph":"X","ts":1,"dur":1e18},%s]', ["e"], 2, None),
        (b'[{"ph":"X","ts":1,"dur":-1},{"ph":"X","ts":1},{"ph":"X","dur":1},%s]', ["e"], 3, None),
        (b'[{"ph":"X","ts":true,"dur":1},{"ph":7},{"ph":"X","name":{}},%s]', ["e"], 3, None),
        (b'[{"ph":"X","ts":%s,"dur":1},%%s]' % (b"9" * 400), ["e"], 1, None),
        (b'[{"name":"\xff\xfe","ph":"X","ts":0,"dur":1}]', ["��"], 0, None),
        (b'[{"name":"\\ud83d","ph":"X","ts":0,"dur":1}]', ["�"], 0, None),
        (b"\x1f\x8bnot gzip", [], 0, "its gzip is damaged"),
        (gzip.compress(b"[" + json.dumps(event(0, 5)).encode() * 3, mtime=0)[:-9], ["e"], 2, "its gzip ends early"),
    ],
)  # fmt: skip
def test_odd_files(content, names, unreadable, problem):
    if b"%s" in content:
        content = content.replace(b"%s", json.dumps(event(0, 5)).encode())
    profile = read(content)
    assert profile.problem == problem
    if b"\x1f\x8b" not in content:
        assert (names_of(profile), profile.unreadable) == (names, unreadable)


@pytest.mark.parametrize(
    "piece",
    [b"[", b'{"a":', b'{"traceEvents":[', b'[{"name":"', b'[{"args":[', b"[{,{,", b'{"traceEvents":[{"x":"\\',
     b'[{"ph":"X","ts":1,"dur":1,"args":{"a":[{"b":1},{"c":2}]}},']
)  # fmt: skip
def test_memory_and_time_of_hostile_files_are_bounded(piece):
    def chunks():
        yield piece
        for _ in range(80):
            yield piece * (100_000 // len(piece))

    tracemalloc.start()
    try:
        began = time.process_time()
        read_profile(chunks(), JOB, path="a.json", events=EventPolicy())
        seconds = time.process_time() - began
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 60 << 20
    assert seconds < 30


def test_event_that_is_too_long_is_skipped(monkeypatch):
    monkeypatch.setattr(trace_events, "MAX_EVENT_BYTES", 1_000)
    rows = [event(0, 5, "a"), event(6, 5, "x" * 2_000_000), event(12, 5, "b")]
    profile = read(rows)
    assert (names_of(profile), profile.unreadable) == (["a", "b"], 1)


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64])
def test_pieces_may_end_anywhere_in_an_event(block, monkeypatch):
    arguments = {"a": [{"b": "}],{\\"}, [[], {}]], "c": 'quote " and \\', "d": {"e": {"f": "[{"}}}
    content = json.dumps(
        [event(at, 5, f'x\\"]}}{at}', args=arguments) for at in (0, 10, 20)]
    ).encode()
    whole = read(content)
    assert names_of(whole) == ['x\\"]}0', 'x\\"]}10', 'x\\"]}20']
    monkeypatch.setattr("bk_pipeline.sources.streams.BLOCK_BYTES", block)
    monkeypatch.setattr(trace_events, "_WINDOW", 1)
    assert read(content) == whole


def test_nesting_is_bounded():
    row = json.dumps(event(0, 5)).encode()
    profile = read(b"[" + row + b"," + b'{"a":' * 1_000)
    assert (names_of(profile), profile.problem) == (["e"], "it is nested more than 500 deep")


def many(count):
    """A file whose events have nested arguments, and strings that look like ends of events."""
    rows = [
        event(i * 10, i % 50, f"é{i} }},{{", args={"list": [{"a": i}, {"b": "},{"}]})
        for i in range(count)
    ]
    return json.dumps({"traceEvents": rows}, ensure_ascii=False).encode()


@pytest.mark.parametrize("odd", [b"", b'{"ph":"X","ts":NaN,"dur":1},', b'{"ph":4},', b'"},{",'])
def test_large_file_has_all_events_in_whatever_way_it_is_read(odd, monkeypatch):
    content = many(4_000)
    middle = content.index(b'{"name": "\xc3\xa92000')
    content = content[:middle] + odd + content[middle:]
    assert len(content) > 1 << 18
    policy = EventPolicy(min_ms=0, max_events=500)
    whole = read(content, policy)
    assert (whole.problem, whole.events, whole.unreadable) == (None, 4_000, bool(odd))
    pieces = [content[at : at + 1_021] for at in range(0, len(content), 1_021)]
    assert read_profile(pieces, JOB, path="a.json", events=policy) == whole
    monkeypatch.setattr(trace_events.TraceFile, "_many", lambda _: None)
    assert read(content, policy) == whole


# Properties

NUMBERS = st.one_of(
    st.integers(-1_000, 400_000_000),
    st.floats(0, 3e8),
    st.floats(0, 3e8).map(str),
    st.none(),
    st.floats(),
    st.just({}),
)
IDS = st.one_of(st.integers(0, 3), st.sampled_from(["1", "main", 1.0, None, [], -7, 10**30]))
ROWS = st.lists(
    st.one_of(
        st.fixed_dictionaries(
            {"ph": st.sampled_from(["X", "X", "X", "B", "E", "M", "C"]), "ts": NUMBERS, "dur": NUMBERS, "tid": IDS},
            optional={"pid": IDS, "name": st.text(max_size=6), "args": st.dictionaries(st.text(max_size=3), NUMBERS, max_size=2)},
        ),
        NUMBERS,
    ),
    max_size=20,
)  # fmt: skip
POLICIES = st.builds(
    EventPolicy,
    min_ms=st.sampled_from([0, 1, 1_000]),
    max_depth=st.integers(1, 4),
    max_events=st.integers(0, 10),
)


@unhurried
@given(rows=ROWS, policy=POLICIES, cut=cuts, in_object=st.booleans(), length_s=st.integers(0, 400))
@example(
    rows=[{"ph": "X", "ts": 0, "dur": 0, "tid": 0}],
    policy=EVERYTHING,
    cut=[],
    in_object=True,
    length_s=0,
)
def test_spans_hold_together_however_a_profile_is_split(rows, policy, cut, in_object, length_s):
    job = JobTimes("j", NOON_NS, NOON_NS + length_s * SECOND_NS)
    content = json.dumps({"a": [{}], "traceEvents": rows, "b": "]"} if in_object else rows).encode()
    whole = read(content, policy, job)
    assert whole == read_profile(split(content, cut), job, path="a.json", events=policy)
    assert whole.problem is None
    kept = events_of(whole)
    assert len(kept) <= policy.max_events
    assert all(span.attributes["bk_pipeline.profile.depth"] < policy.max_depth for span in kept)
    assert (
        whole.events
        == len(kept) + whole.too_short + whole.too_deep + whole.outside + whole.left_out
    )


@unhurried
@given(
    sample=st.sampled_from([one for one in samples() if one.suffix == ".json"]),
    damage=st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(max_size=4)), max_size=4),
    end=st.integers(0, 1 << 16),
    cut=cuts,
    packed=st.booleans(),
)
def test_damaged_profiles_give_spans_that_hold_together(sample, damage, end, cut, packed):
    content = bytearray(sample.read_bytes())
    for place, piece in damage:
        at = place % len(content)
        content[at : at + len(piece)] = piece
    content = bytes(content[: end % (2 * len(content))])
    content = gzip.compress(content, mtime=0) if packed else content
    assert read(content) == read_profile(split(content, cut), JOB, path="a.json", events=EVERYTHING)
