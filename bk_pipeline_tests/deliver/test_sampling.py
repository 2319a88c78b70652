"""Sampling: which builds the rules keep, at what weight, and how the weights are written."""

from __future__ import annotations

import json
import random
import re
import uuid
from collections import Counter
from datetime import timedelta
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bk_pipeline.deliver import sampling
from bk_pipeline.deliver.delivery import PartNote
from bk_pipeline.deliver.honeycomb import codec as honeycomb
from bk_pipeline.deliver.honeycomb import plain as honeycomb_plain
from bk_pipeline.deliver.honeycomb.shape import Shape
from bk_pipeline.deliver.otlp import codec as otlp
from bk_pipeline.deliver.otlp import plain as otlp_plain
from bk_pipeline.deliver.otlp.shape import body_of
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.deliver.sampling import SPACE, DaySample, Rule, Sampling, load_sampling
from bk_pipeline.errors import ConfigError
from bk_pipeline.spans import ids
from bk_pipeline.spans.table import rows, table_of
from bk_pipeline_tests.builders import make_build, make_job, make_pipeline, make_retry, make_trace
from bk_pipeline_tests.deliver.destinations import DOWN, ScriptedDestination
from bk_pipeline_tests.deliver.honeycomb.odd_tables import tables as odd_tables
from bk_pipeline_tests.deliver.otlp import husky
from bk_pipeline_tests.deliver.tables import DAY, payload, table

RATES = [1, 2, 3, 7, 10, 64, 1_000, 999_983, 1_000_000]
SERVICE = {"service.name": "ci"}


@pytest.mark.parametrize("rate", RATES)
def test_threshold_drops_all_but_one_in_rate_and_gives_the_rate_back(rate):
    threshold = sampling.threshold_of(rate)

    assert abs(Fraction(SPACE - threshold, SPACE) - Fraction(1, rate)) < Fraction(1, SPACE)
    assert sampling.rate_of(threshold) == rate


@pytest.mark.parametrize(
    ("rate", "text"),
    # As in OpenTelemetry's specification: 50 %, 25 %, 10 %, 1 in 2**16.
    [(2, "8"), (4, "c"), (10, "e6666666666666"), (65_536, "ffff")],
)
def test_trace_state_has_the_threshold_without_trailing_zeros(rate, text):
    assert sampling.trace_state(sampling.threshold_of(rate)) == f"ot=th:{text}"


def test_trace_is_kept_from_its_threshold_on():
    at = bytes(9) + (SPACE // 2).to_bytes(7)
    below = bytes([255] * 9) + (SPACE // 2 - 1).to_bytes(7)

    assert sampling.is_kept(at, sampling.threshold_of(2))
    assert not sampling.is_kept(below, sampling.threshold_of(2))


@pytest.mark.parametrize(
    "made",
    [
        lambda draw: str(uuid.UUID(int=draw.getrandbits(128), version=4)),
        lambda draw: _uuid7(1_700_000_000_000, draw),
        lambda draw: f"build-{draw.getrandbits(40)}",
    ],
    ids=["version 4", "version 7 of one moment", "no UUID, so hashed"],
)
def test_randomness_of_build_ids_is_uniform(made):
    draw = random.Random(7)
    values = np.array(
        [
            sampling.randomness(bytes.fromhex(ids.trace_id(made(draw)))) / SPACE
            for _ in range(20_000)
        ]
    )

    # The largest distance from the uniform distribution; 1.95 is exceeded once in a thousand.
    distance = np.abs(np.sort(values) - np.arange(len(values)) / len(values)).max()
    assert distance * len(values) ** 0.5 < 1.95


def _uuid7(at_ms: int, draw: random.Random) -> str:
    bits = at_ms << 80 | 7 << 76 | draw.getrandbits(12) << 64 | 2 << 62 | draw.getrandbits(62)
    return str(uuid.UUID(int=bits))


def build(name: str, jobs=None, **fields):
    slug = fields.pop("slug", "shop")
    made = make_build(jobs, id=str(uuid.uuid5(uuid.NAMESPACE_URL, name)), **fields)
    return made | {"pipeline": make_pipeline(slug)}


def retried():
    first = make_job("flaky", state="failed", run_s=5)
    return [first, make_retry(first, made_s=20, kind="automatic")]


BUILDS = {
    "plain": build("plain"),
    "docs": build("docs", slug="docs", branch="topic", source="schedule"),
    "failed": build("failed", state="failed"),
    "canceled": build("canceled", state="canceled"),
    "retried": build("retried", retried()),
    "soft": build("soft", [make_job("lint", state="failed", soft_failed=True)], state="passed"),
    "slow": build("slow", [make_job("test", run_s=900)]),
    "queued": build("queued", [make_job("test"), make_job("gpu", wait_s=700)]),
    "expired": build(
        "expired",
        [
            make_job("test"),
            make_job("late", run_s=None, state="expired", expired_at="2026-03-02T09:20:00.000Z"),
        ],
    ),
}


def matching(**conditions) -> set[str]:
    """The names of the builds that a rule with these conditions decides about."""
    names = {uuid.UUID(one["id"]).bytes: name for name, one in BUILDS.items()}
    rules = Sampling((Rule(id="one", rate=10, **conditions),))
    spans = table_of([make_trace(one) for one in BUILDS.values()]).select(rules.columns)
    found = rules.thresholds([spans])
    assert set(found.values()) <= {sampling.threshold_of(10)}
    return {names[one] for one in found}


KEPT = {"failed"}


@pytest.mark.parametrize(
    ("conditions", "names"),
    [
        ({}, BUILDS.keys() - KEPT),
        ({"pipeline": "docs"}, {"docs"}),
        ({"pipeline": ["*", "!docs"]}, BUILDS.keys() - KEPT - {"docs"}),
        ({"branch": "topic"}, {"docs"}),
        ({"source": "sched*"}, {"docs"}),
        ({"state": "canceled"}, {"canceled"}),
        ({"retried": True}, {"retried"}),
        ({"retried": False}, BUILDS.keys() - KEPT - {"retried"}),
        ({"soft_failed": True}, {"soft"}),
        ({"min_duration_s": 600}, {"slow", "queued", "expired"}),
        ({"min_duration_s": 1_000}, {"expired"}),
        ({"min_wait_s": 600}, {"queued", "expired"}),
        ({"step_key": "lint"}, {"soft"}),
        ({"job_name": "gpu", "queue": "default"}, {"queued"}),
        ({"job_name": "gpu", "queue": "elsewhere"}, set()),
        ({"pipeline": "docs", "branch": "main"}, set()),
    ],
)
def test_rule_matches_builds_that_meet_all_conditions(conditions, names):
    assert matching(**conditions) == set(names)


@pytest.mark.parametrize(
    ("state", "sampled"),
    [("failed", True), ("*", True), (["passed", "failed"], True), ("!passed", False)],
)
def test_failed_builds_are_kept_unless_a_rule_includes_their_state(state, sampled):
    assert ("failed" in matching(state=state)) == sampled


def test_first_rule_that_matches_decides():
    rules = Sampling(
        (
            Rule(id="docs", rate=100, pipeline="docs"),
            Rule(id="slow", rate=1, min_duration_s=600),
            Rule(id="rest", rate=10),
        )
    )
    traces, chosen = rules.choose(table_of([make_trace(one) for one in BUILDS.values()]))

    by_id = dict(zip((str(uuid.UUID(bytes=one)) for one in traces), chosen, strict=True))
    found = {name: by_id[one["id"]] for name, one in BUILDS.items()}
    assert (found["docs"], found["slow"], found["plain"], found["failed"]) == (0, 1, 2, -1)


def test_weighted_counts_and_durations_agree_with_the_unsampled_ones():
    """A thousand seeds: each within the sampling error, and on average without a bias."""
    rules = Sampling(
        (
            Rule(id="docs", rate=20, pipeline="docs"),
            Rule(id="slow", rate=2, min_duration_s=600),
            Rule(id="rest", rate=7),
        )
    )
    draw = random.Random(1)
    spans = table_of([make_trace(_any_build(number, draw)) for number in range(160)])
    spans = spans.select(list(dict.fromkeys(["end", *rules.columns])))
    traces, chosen = rules.choose(spans)
    roots = spans.filter(pa.compute.equal(spans["name"], "buildkite.build"))
    lengths = pa.compute.subtract(roots["end"].cast("int64"), roots["start"].cast("int64"))
    # Of each build: one, and its duration in seconds.
    values = np.stack([np.ones(len(traces)), np.asarray(lengths) / 1e9])
    groups = np.stack([chosen == index for index in (-1, 0, 1, 2)]).astype(float)
    rates = np.array([1, 20, 2, 7])
    exact = values @ groups.T
    assert (exact[0] > 5).all()
    errors_allowed = np.sqrt((values**2 @ groups.T) * (rates - 1))

    errors = []
    for seed in range(1_000):
        kept = rules.thresholds([_with_traces(spans, traces, seed)])
        weights = np.array([_weight(one, kept) for one in _traces(len(traces), seed)])
        errors.append((values * weights) @ groups.T - exact)

    assert (np.abs(errors) <= 6 * errors_allowed).all()
    mean = np.mean(errors, axis=0)
    assert (np.abs(mean) <= 4 * errors_allowed / 1_000**0.5).all()


def _any_build(number: int, draw: random.Random) -> dict:
    run_s = draw.choice([30, 200, 1_200])
    return build(
        f"{number}",
        [make_job(f"job {number}", run_s=run_s, state="passed")],
        slug=draw.choice(["docs", "shop", "web"]),
        state=draw.choice(["passed"] * 9 + ["failed"]),
    )


def _traces(count: int, seed: int) -> list[bytes]:
    draw = random.Random(seed)
    return [uuid.UUID(int=draw.getrandbits(128), version=4).bytes for _ in range(count)]


def _with_traces(spans: pa.Table, traces: list[bytes], seed: int) -> pa.Table:
    """The same builds with other trace ids."""
    column = spans["trace_id"].combine_chunks()
    new = dict(zip(traces, _traces(len(traces), seed), strict=True))
    texts = [new[bytes.fromhex(one)].hex() for one in column.dictionary.to_pylist()]
    renamed = pa.DictionaryArray.from_arrays(column.indices, pa.array(texts))
    return spans.set_column(spans.schema.get_field_index("trace_id"), "trace_id", renamed)


def _weight(trace_id: bytes, thresholds: dict[bytes, int]) -> int:
    threshold = thresholds.get(trace_id, 0)
    return sampling.rate_of(threshold) if sampling.is_kept(trace_id, threshold) else 0


def test_build_kept_at_a_rate_is_kept_at_every_lower_rate():
    for trace_id in _traces(300, seed=5):
        kept = [sampling.is_kept(trace_id, sampling.threshold_of(rate)) for rate in RATES]
        assert kept == sorted(kept, reverse=True)


# How weights are written.


def weighted(one: pa.Table, rate: int = 10) -> SpanRows:
    """The rows, with a rate for every second build."""
    traces = SpanRows.from_table(one).trace_ids
    return SpanRows.from_table(one, dict.fromkeys(traces[::2], sampling.threshold_of(rate)))


def busy() -> pa.Table:
    linked = payload(1, rebuilt_from={"id": str(uuid.uuid4()), "number": 9})
    large = payload(3, meta_data={f"key-{n}": "x" * 60_000 for n in range(120)})
    return table(linked, payload(2), large)


def honeycomb_events(made: SpanRows) -> list[dict]:
    return [json.loads(item.body) for item in honeycomb.items(made, Shape("ci"))]


def test_every_event_of_a_sampled_build_has_its_rate():
    events = honeycomb_events(weighted(busy()))

    rates = {event["data"]["trace.trace_id"]: event.get("samplerate") for event in events}
    assert list(rates.values()) == [10, None, 10]
    annotations = {event["data"].get("meta.annotation_type") for event in events}
    trimmed = {event["data"].get("bk_pipeline.trimmed") for event in events}
    assert "link" in annotations
    assert True in trimmed
    for event in events:
        assert event.get("samplerate") == rates[event["data"]["trace.trace_id"]]


@settings(max_examples=25, deadline=None)
@given(one=odd_tables())
def test_weighted_events_equal_the_reference(one):
    made, expected = weighted(one), []
    for span in rows(one):
        rate = sampling.rate_of(made.thresholds.get(bytes.fromhex(span["trace_id"]), 0))
        expected += honeycomb_plain.link_events(span, Shape("ci"), rate)
        expected.append(honeycomb_plain.span_event(span, Shape("ci"), rate))

    assert honeycomb_events(made) == json.loads(json.dumps(expected))


@pytest.mark.parametrize("rate_attribute", [False, True])
@settings(max_examples=25, deadline=None)
@given(one=odd_tables())
def test_weighted_otlp_spans_equal_the_reference(rate_attribute, one):
    made = weighted(one)
    items = otlp.items(made, SERVICE, rate_attribute=rate_attribute)

    expected = otlp_plain.request(
        otlp_plain.raw_rows(one), SERVICE, made.thresholds, rate_attribute=rate_attribute
    )
    assert ExportTraceServiceRequest.FromString(body_of(items)) == expected


@pytest.mark.parametrize("rate_attribute", [False, True])
def test_honeycomb_takes_the_same_weights_from_otlp_as_from_events(rate_attribute):
    made = weighted(busy())
    body = body_of(otlp.items(made, SERVICE, rate_attribute=rate_attribute))

    found = {
        event["data"].get("trace.span_id"): (
            event["data"].get("sampleRate"),
            event["data"].get("trace.trace_state"),
        )
        for event in husky.events(ExportTraceServiceRequest.FromString(body))
    }
    for event in honeycomb_events(made):
        rate, state = found[event["data"].get("trace.span_id")]
        if "trace.span_id" in event["data"]:
            assert rate == (event.get("samplerate") if rate_attribute else None)
            sampled = "samplerate" in event and not rate_attribute
            assert state == ("ot=th:e6666666666666" if sampled else None)


def test_without_sampling_nothing_is_written():
    plain_rows = SpanRows.from_table(busy())

    assert not any("samplerate" in event for event in honeycomb_events(plain_rows))
    for rate_attribute in (False, True):
        body = body_of(otlp.items(plain_rows, SERVICE, rate_attribute=rate_attribute))
        assert b"sampleRate" not in body
        assert b"ot=th" not in body


# Delivery: whole builds, whatever happens.


def sample(one: pa.Table, rate: int) -> DaySample:
    rules = Sampling((Rule(id="all", rate=rate),))
    return DaySample(rules.thresholds([one]), set())


def by_trace(items) -> Counter:
    return Counter(item.trace_id for item in items)


def test_build_is_kept_or_dropped_whole_and_the_dropped_are_counted(send):
    one = table(*(payload(number) for number in range(200)))
    decided, destination = sample(one, 4), ScriptedDestination()

    done = send([one], destination=destination, sample=decided)

    whole = {
        bytes.fromhex(trace): count for trace, count in Counter(one["trace_id"].to_pylist()).items()
    }
    sent = by_trace(destination.stored)
    assert sent == {trace: whole[trace] for trace in whole if trace not in decided.dropped}
    assert 20 < len(sent) < 90
    assert done.sampled_out == sum(whole[trace] for trace in decided.dropped)
    assert done.accepted + done.sampled_out == len(one)


def test_interrupted_delivery_is_resumed_with_the_same_builds_and_weights(send, ledger):
    one = table(*(payload(number) for number in range(40)))
    destination = ScriptedDestination(items=7)
    destination.replies = [destination.accept, *[DOWN] * 40]
    with pytest.raises(type(DOWN)):
        send([one], destination=destination, sample=sample(one, 2))
    first = set(by_trace(destination.stored))
    assert first

    destination.replies = []
    # By now the rules would keep only one build in a million.
    send([one], destination=destination, sample=sample(one, 1_000_000))

    sent = by_trace(destination.stored)
    assert first <= set(sent)
    assert len({item.key for item in destination.stored}) == len(destination.stored)
    assert {sent[trace] for trace in first} == {len(one) // 40}
    assert ledger.thresholds(destination.name, first) == dict.fromkeys(
        first, sampling.threshold_of(2)
    )


class Weighing(ScriptedDestination):
    """Remembers with what threshold each span was encoded."""

    def __init__(self) -> None:
        super().__init__()
        self.thresholds: dict[bytes, int] = {}

    def encode(self, given):
        items = super().encode(given)
        self.thresholds |= {one.item_id: given.thresholds.get(one.trace_id, 0) for one in items}
        return items


@pytest.mark.parametrize(
    ("first", "then", "weight"),
    [
        (2, 2, 2),  # nothing has changed
        (2, 1_000, 2),  # it would not have been kept now, but it was: that probability counts
        (2, 1, 1),  # whatever is new of it is always sent now
        (1, 1_000, 1),  # it was sent without sampling
    ],
)
def test_resumed_build_is_completed_with_the_weight_of_its_probability(send, first, then, weight):
    number = next(
        n
        for n in range(100)
        if sampling.is_kept(uuid.UUID(payload(n)["id"]).bytes, sampling.threshold_of(2))
        and not sampling.is_kept(uuid.UUID(payload(n)["id"]).bytes, sampling.threshold_of(1_000))
    )
    earlier, later = table(payload(number, jobs=2)), table(payload(number, jobs=4))
    destination = Weighing()
    send([earlier], destination=destination, sample=sample(earlier, first))
    before = dict(destination.thresholds)
    assert set(map(sampling.rate_of, before.values())) == {first}

    send([later], destination=destination, sample=sample(later, then))

    new = [item.item_id for item in destination.stored if item.item_id not in before]
    assert len(new) == len(later) - len(earlier)
    assert {sampling.rate_of(destination.thresholds[one]) for one in new} == {weight}
    assert len(destination.stored) == len(later)


def test_build_resumed_while_its_first_spans_are_in_flight_stays_whole(send):
    number = next(
        n
        for n in range(100)
        if sampling.is_kept(uuid.UUID(payload(n)["id"]).bytes, sampling.threshold_of(2))
    )
    earlier, later = table(payload(number, jobs=2)), table(payload(number, jobs=4))
    destination = ScriptedDestination()
    decided = sample(earlier, 2)

    class Then(dict):
        """The second time, the rules would drop the build."""

        asked = 0

        def get(self, key, default=0):
            self.asked += 1
            return super().get(key, default) if self.asked == 1 else SPACE - 1

    decided.thresholds = Then(decided.thresholds)
    done = send([earlier, later], destination=destination, sample=decided)

    assert decided.thresholds.asked == 2
    assert (done.accepted, done.sampled_out) == (len(later), 0)


def test_large_table_is_decided_before_it_is_sliced(send, monkeypatch):
    monkeypatch.setattr("bk_pipeline.deliver.loop.MAX_ROWS_PER_ENCODE", 3)
    one = table(*(payload(number) for number in range(30)))
    decided, destination = sample(one, 2), ScriptedDestination()

    send([one], destination=destination, sample=decided)

    assert set(by_trace(destination.stored).values()) == {len(one) // 30}
    assert decided.dropped


def test_ledger_forgets_thresholds_with_the_destination(ledger):
    one = bytes(range(16))
    with ledger.delivery_lock("here", DAY):
        ledger.record_thresholds("here", DAY, {one: 5})
        ledger.record_thresholds("here", DAY, {one: 7, bytes(16): 0})
    assert ledger.thresholds("here", [one, bytes(16)]) == {one: 7}
    assert ledger.thresholds("elsewhere", [one]) == {}

    ledger.forget("here")

    assert ledger.thresholds("here", [one]) == {}


# The file of rules.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[rule]]\nid = "a"\n', 'line 1: rule "a", rate: is missing.'),
        ("[[rule]]\nrate = 2\n", "line 1: rule 1, id: is missing."),
        ('[[rule]]\nid = "a"\nrate = 0\n', 'line 3: rule "a", rate: expected a whole number'),
        ('[[rule]]\nid = "a"\nrate = 2.5\n', 'line 3: rule "a", rate: expected a whole number'),
        ('[[rule]]\nid = "a"\nrate = true\n', 'line 3: rule "a", rate: expected a whole number'),
        ('[[rule]]\nid = "a"\nrate = "10"\n', 'line 3: rule "a", rate: expected a whole number'),
        ('[[rule]]\nid = "a"\nrate = 1000001\n', 'line 3: rule "a", rate: expected a whole'),
        (
            '[[rule]]\nid = "a"\nrate = 2\nbranhc = "x"\n',
            "branhc: is unknown; did you mean branch?",
        ),
        (
            '[[rule]]\nid = "a"\nrate = 2\nbranch = ""\n',
            'line 4: rule "a", branch: expected a text',
        ),
        ('[[rule]]\nid = "a"\nrate = 2\nbranch = []\n', 'rule "a", branch: expected a text, or'),
        ('[[rule]]\nid = "a"\nrate = 2\nbranch = ["a", 1]\n', "branch: expected a text, or a list"),
        ('[[rule]]\nid = "a"\nrate = 2\nretried = "yes"\n', "retried: expected true or false."),
        ('[[rule]]\nid = "a"\nrate = 2\nmin_wait_s = -1\n', 'rule "a", min_wait_s: '),
        ('[[rule]]\nid = "a b"\nrate = 2\n', "id: expected 1 to 100 letters"),
        ("rate = 10\n", "line 1: rate: is unknown; "),
        ("[[rules]]\n", "line 1: rules: is unknown; did you mean rule?"),
        ("[[rule]]\nid = \n", "is not valid TOML"),
        (b"\xff\xfe", "is not valid TOML: it is not UTF-8 from byte 0 on."),
        (
            '[[rule]]\nid = "a"\nrate = 2\n[[rule]]\nid = "a"\nrate = 3\nbranch = "x"\n',
            'line 5: rule "a", id: rule 1 has the same id "a".',
        ),
        (
            '[[rule]]\nid = "a"\nrate = 2\n[[rule]]\nid = "b"\nrate = 3\n',
            'line 4: rule "b": never decides, because rule "a" has the same conditions.',
        ),
    ],
)
def test_bad_file_is_refused_with_the_line_and_the_rule(tmp_path, text, message):
    path = tmp_path / "sampling.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(ConfigError) as refused:
        load_sampling(path)

    [line] = str(refused.value).splitlines()
    assert line.startswith(str(path))
    assert message in line
    assert re.search(r"[.?]$", line)


def test_missing_file_is_named_with_its_setting(tmp_path):
    with pytest.raises(
        ConfigError, match=r"BK_PIPELINE_SAMPLING names .*nowhere\.toml.*sampling\.md"
    ):
        load_sampling(tmp_path / "nowhere.toml")


def test_digest_changes_with_the_rules_only(tmp_path):
    def digest(text):
        (tmp_path / "sampling.toml").write_text(text)
        return load_sampling(tmp_path / "sampling.toml").digest

    one = digest('[[rule]]\nid = "a"\nrate = 2\n')
    assert digest('# Half.\n[[rule]]\nid = "a"\nrate = 2\n') == one
    assert digest('[[rule]]\nid = "a"\nrate = 3\n') != one


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("p-1", PartNote("p-1")),
        # As written by earlier versions.
        ("p-1 older than 60 s: 5", PartNote("p-1", too_old=5, max_age_s=60)),
        ("p-1 sampled by 0af1: 7", PartNote("p-1", sampled_out=7, rules="0af1")),
        (
            "p-1 older than 60 s: 5 sampled by 0af1: 7",
            PartNote("p-1", too_old=5, max_age_s=60, sampled_out=7, rules="0af1"),
        ),
    ],
)
def test_note_of_a_delivered_part_holds_for_its_age_and_rules_only(text, note):
    assert (PartNote.parse(text), str(note)) == (note, text)
    minute = timedelta(seconds=60)

    assert note.holds(minute, "0af1")
    assert note.holds(None, "0af1") == (not note.too_old)
    assert note.holds(minute, "") == (not note.sampled_out)


def test_documented_rules_are_valid(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "sampling.md").read_text()
    [example] = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    path = tmp_path / "sampling.toml"
    path.write_text(example)

    assert [rule.rate for rule in load_sampling(path).rules] == [1, 1, 50, 10]
    keys = {
        name for line in page.splitlines() if line.startswith("| `") for name in line.split("`")
    }
    assert set(Rule.model_fields) <= keys
