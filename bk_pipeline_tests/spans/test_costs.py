"""What jobs and builds cost, against a plain calculation of each job by itself."""

from __future__ import annotations

from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bk_pipeline.errors import ConfigError
from bk_pipeline.prices import PriceRule, load_prices
from bk_pipeline.spans.costs import Price, Prices, with_costs
from bk_pipeline.spans.fields import COSTS
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline.spans.table import SCHEMA, rows, table_of
from bk_pipeline_tests.builders import (
    make_agent,
    make_block,
    make_build,
    make_job,
    make_retry,
    make_trace,
    make_trigger,
    make_waiter,
    ns_at,
    uid,
)
from bk_pipeline_tests.deliver.honeycomb.odd_tables import tables as odd_tables
from bk_pipeline_tests.spans.test_fields import PAYLOADS
from bk_pipeline_tests.spans.wholeness import PATIENT

JOB, BUILD = "buildkite.job", "buildkite.build"
UTC_ZONE = ZoneInfo("UTC")


def prices(*some, currency="USD"):
    """Prices: a number by minute for all jobs, or a number and conditions."""
    found = [(one, {}) if isinstance(one, int | float) else one for one in some]
    return Prices(
        currency,
        tuple(
            Price(
                f"price {n}", per_minute, since_ns=given.pop("since_ns", 0), conditions=_of(given)
            )
            for n, (per_minute, given) in enumerate((one, dict(two)) for one, two in found)
        ),
    )


def _of(conditions):
    return tuple(
        (name, (globs,) if isinstance(globs, str) else globs) for name, globs in conditions.items()
    )


def priced(jobs, *some, **fields):
    """Return the rows of a build of `jobs`."""
    trace = make_trace(make_build(jobs, **fields))
    return list(rows(with_costs(table_of([trace]), prices(*some))))


def costs_of(jobs, *some, **fields):
    """Return the cost of each job by its step's key (a block step's by its label), None without."""
    return {
        row["attributes"].get("buildkite.step.key")
        or row["attributes"]["buildkite.step.label"]: row["attributes"].get("bk_pipeline.cost")
        for row in priced(jobs, *some, **fields)
        if row["name"] == JOB
    }


def root_of(jobs, *some, **fields):
    """Return the root's attributes of costs, by their short names."""
    attributes = priced(jobs, *some, **fields)[0]["attributes"]
    return {name.removeprefix("bk_pipeline."): attributes[name] for name in COSTS & {*attributes}}


def job_on(queue, name="test", **fields):
    tags = fields.pop("tags", ())
    agent = make_agent(f"agent of {name}", meta_data=[f"queue={queue}", *tags])
    return make_job(name, agent=agent, agent_query_rules=[f"queue={queue}"], **fields)


def test_job_costs_its_running_time_without_its_wait():
    assert costs_of([make_job(wait_s=600, run_s=90)], 0.5) == {"test": 0.75}


def test_build_costs_what_its_jobs_cost_and_names_the_currency():
    jobs = [make_job("a", run_s=60), make_job("b", run_s=30)]
    assert root_of(jobs, 0.1, state="passed") == {
        "cost": 0.15,
        "currency": "USD",
        "retries_cost": 0.0,
        "failures_cost": 0.0,
    }


def test_steps_stages_and_waits_have_no_cost():
    trace = make_trace(make_build([make_job(wait_s=9)]), waits=True)
    table = with_costs(table_of([trace]), prices(1))
    having = {row["name"] for row in rows(table) if COSTS & {*row["attributes"]}}
    assert having == {JOB, BUILD}


def test_block_and_trigger_steps_have_no_cost():
    jobs = [make_job("a"), make_waiter(), make_block(unblocked_s=60), make_trigger("deploy")]
    assert costs_of(jobs, 6) == {"a": 1.0, "Release?": None, "deploy": None}
    assert "cost" not in root_of([make_trigger("deploy")], 6)


def test_job_that_never_started_costs_nothing_if_it_has_a_price():
    waited = make_job("waited", run_s=None, state="canceled", finished_at=make_job()["finished_at"])
    assert costs_of([waited], 6) == {"waited": 0.0}
    assert costs_of([waited], (6, {"queue": "other"})) == {"waited": None}


def test_first_price_that_matches_counts():
    jobs = [job_on("linux-large", "a"), job_on("linux-small", "b"), job_on("mac", "c")]
    some = ((6, {"queue": "linux-large"}), (3, {"queue": "linux-*"}), (0, {"queue": "mac"}), 9)
    assert costs_of(jobs, *some) == {"a": 1.0, "b": 0.5, "c": 0.0}


def test_build_of_jobs_without_price_has_no_cost_and_others_cost_what_is_known():
    assert root_of([job_on("mac")], (6, {"queue": "linux"})) == {}
    half = root_of([job_on("mac", "a"), job_on("linux", "b")], (6, {"queue": "linux"}))
    assert half["cost"] == 1.0


@pytest.mark.parametrize(
    ("agent", "rules", "queue"),
    [
        (None, ["queue=asked"], "asked"),
        (None, ["os=linux"], "default"),
        (None, None, "default"),
        (make_agent(meta_data=["queue=other"]), ["queue=asked"], "other"),
        (make_agent(meta_data=["os=linux"]), ["queue=asked"], "default"),
        (make_agent(meta_data=["queue=one", "queue=asked"]), ["queue=asked"], "asked"),
    ],
)
def test_queue_is_the_agents_or_else_the_one_asked_for(agent, rules, queue):
    job = make_job(agent=agent, agent_query_rules=rules)
    assert costs_of([job], (6, {"queue": queue})) == {"test": 1.0}
    assert costs_of([job], (6, {"queue": f"!{queue}"})) == {"test": None}


@pytest.mark.parametrize(
    ("tags", "conditions", "matches"),
    [
        (["os=mac"], {"tags.os": "mac*"}, True),
        (["os=mac"], {"tags.os": "linux"}, False),
        (["size=a", "size=b"], {"tags.size": "b"}, True),
        (["size=a", "size=b"], {"tags.size": "!b"}, False),
        (["os=mac"], {"tags.size": "*"}, False),
        (["os=mac"], {"tags.size": "!b"}, False),
        (["url=a=b"], {"tags.url": "a=b"}, True),
        (["flag"], {"tags.flag": "*"}, False),
        (['os="mäc"\n'], {"tags.os": '"mäc"\n'}, True),
        (["os=mac", "size=l"], {"tags.os": "mac", "tags.size": "xl"}, False),
        (["os=mac", "size=l"], {"tags.os": "mac", "tags.size": ("xl", "l")}, True),
    ],
)
def test_tags_match_if_one_value_is_included_and_none_excluded(tags, conditions, matches):
    job = job_on("default", tags=tags)
    assert costs_of([job], (6, conditions)) == {"test": 1.0 if matches else None}


@pytest.mark.parametrize(
    ("glob", "matches"),
    [("Arm*", True), (uid("arm"), True), ("!Arm", False), (f"!{uid('arm')}", False), ("x", False)],
)
def test_cluster_is_its_name_or_its_uuid(glob, matches):
    trace = make_trace(make_build(cluster_id=uid("arm")))
    table = table_of([trace])
    at = table.schema.get_field_index("buildkite.cluster.name")
    named = pa.array(["Arm"] * len(table)).dictionary_encode()
    table = table.set_column(at, table.schema.field(at), named)
    found = with_costs(table, prices((6, {"cluster": glob})))["bk_pipeline.cost"][0].as_py()
    assert found == (1.0 if matches else None)


def test_pipeline_without_cluster_meets_no_condition_on_clusters():
    assert costs_of([make_job()], (6, {"cluster": "!x"}), (3, {"pipeline": "sh?p"})) == {
        "test": 0.5
    }


def test_price_is_for_jobs_that_start_on_its_first_day_or_later():
    start = ns_at(3)
    job = make_job(runnable_s=1, wait_s=2)
    assert costs_of([job], (6, {"since_ns": start}), 3) == {"test": 1.0}
    assert costs_of([job], (6, {"since_ns": start + 1}), 3) == {"test": 0.5}


def attempts(**fields):
    first = make_job("flaky", state="failed", run_s=20)
    return [first, make_retry(first, made_s=60, kind="automatic", run_s=30, **fields)]


def test_retries_cost_what_the_attempts_cost_that_were_retried():
    assert root_of(attempts(), 6) == {
        "cost": 5.0,
        "currency": "USD",
        "retries_cost": 2.0,
        "failures_cost": 2.0,
    }


@pytest.mark.parametrize("known_by", ["retried", "retried_in_job_id", "retry_source"])
def test_retry_is_known_from_either_end(known_by):
    first, second = attempts()
    kept = {known_by: (first if known_by != "retry_source" else second)[known_by]}
    first |= {"retried": None, "retried_in_job_id": None}
    second["retry_source"] = None
    (second if known_by == "retry_source" else first).update(kept)
    assert root_of([first, second], 6)["retries_cost"] == 2.0


def test_table_may_have_a_build_in_two_states():
    first, second = attempts()
    second["retry_source"] = {"job_id": first["id"], "retry_type": "automatic"}
    first |= {"retried": None, "retried_in_job_id": None}
    traces = [make_trace(make_build(jobs)) for jobs in ([first], [first, second])]
    table = with_costs(table_of(traces), prices(6))
    assert table["bk_pipeline.retries_cost"].drop_null().to_pylist() == [0.0, 2.0]
    assert table["bk_pipeline.cost"].drop_null().to_pylist() == [2.0, 2.0, 5.0, 2.0, 3.0]


def test_failures_are_hard_ones_whether_retried_or_not():
    jobs = [
        make_job("soft", state="failed", soft_failed=True, run_s=600),
        make_job("hard", state="failed", run_s=10),
        make_job("late", state="timed_out", run_s=20),
        make_job("stopped", state="canceled", run_s=600),
        *attempts(state="failed"),
    ]
    found = root_of(jobs, 6, state="failed")
    assert (found["failures_cost"], found["retries_cost"]) == (8.0, 2.0)


def test_resumed_build_costs_more_and_its_jobs_cost_what_they_did():
    first = [make_job("a", run_s=60), make_block(unblocked_s=None)]
    later = [make_job("a", run_s=60), make_block(unblocked_s=900), make_job("b", runnable_s=901)]
    assert root_of(first, 1, blocked=True)["cost"] == 1.0
    assert root_of(later, 1)["cost"] == 1.166667
    assert costs_of(later, 1)["a"] == costs_of(first, 1, blocked=True)["a"] == 1.0


def test_sums_have_no_noise_of_binary_fractions():
    jobs = [make_job(f"job {n}", run_s=6) for n in range(3)]
    assert set(costs_of(jobs, 1).values()) == {0.1}
    assert root_of(jobs, 1)["cost"] == 0.3


def test_without_prices_the_table_is_the_same_object():
    table = table_of([make_trace(make_build())])
    assert with_costs(table, None) is table
    assert with_costs(SCHEMA.empty_table(), prices(1)).equals(SCHEMA.empty_table())


@pytest.mark.parametrize("hidden", ["buildkite.agent.*", "buildkite.job.*", "*.slug"])
@pytest.mark.parametrize("how", ["drop", "hash"])
def test_cost_does_not_depend_on_what_is_hidden(hidden, how):
    table = table_of([make_trace(make_build([job_on("mac", "a"), make_job("b")]))])
    some = prices((6, {"queue": "mac", "pipeline": "shop"}), 3)
    shown = Privacy(**{how: (hidden,)}).apply(with_costs(table, some))
    assert sorted(shown["bk_pipeline.cost"].drop_null().to_pylist()) == [0.5, 1.0, 1.5]


@pytest.mark.parametrize("how", ["drop", "hash"])
def test_costs_can_be_hidden(how):
    table = with_costs(table_of([make_trace(make_build())]), prices(6))
    shown = Privacy(**{how: ("bk_pipeline.*cost",)}).apply(table)
    assert not any(shown[name].drop_null() for name in COSTS - {"bk_pipeline.currency"})


def plain_costs(spans, some):
    """Return the cost of each row of `rows`, and what retries and failures cost, job by job."""
    jobs = [
        span["attributes"]
        | {
            "ns": span["end_unix_nano"] - span["start_unix_nano"],
            "failed": span["status"] == "error",
        }
        for span in spans
        if span["name"] == JOB and span["attributes"]["buildkite.job.type"] == "script"
    ]
    sources = {job.get("buildkite.job.retry_source.job_id") for job in jobs}
    total = {"cost": None, "retries_cost": None, "failures_cost": None}
    found = {}
    for job in jobs:
        queue = job.get("buildkite.agent.queue")
        if queue is None:
            rules = job.get("buildkite.job.agent_query_rules") or []
            asked = [rule[6:] for rule in rules if rule.startswith("queue=")]
            queue = asked[0] if asked else "default"
        price = next((one for one in some.prices if _plain_match(one, queue)), None)
        if price is None:
            continue
        minutes = job["ns"] / 60e9 if job["buildkite.job.started"] else 0
        cost = found[job["buildkite.job.id"]] = round(minutes * price.per_minute, 6)
        retried = (
            job.get("buildkite.job.retried")
            or "buildkite.job.retried_in_job_id" in job
            or job["buildkite.job.id"] in sources
        )
        parts = {"cost": True, "retries_cost": retried, "failures_cost": job["failed"]}
        for name, included in parts.items():
            total[name] = (total[name] or 0.0) + cost * bool(included)
    return found, {name: one if one is None else round(one, 6) for name, one in total.items()}


def _plain_match(price, queue):
    return all(fnmatchcase(queue, glob) for _, globs in price.conditions for glob in globs)


def test_recorded_builds_cost_what_the_plain_calculation_says():
    traces = [make_trace(path.read_bytes()) for path in PAYLOADS]
    some = prices((0.013, {"queue": "d*"}), (0.2, {"queue": "*a*"}), currency="EUR")
    table = with_costs(table_of(traces), some)
    at = known = 0
    for trace in traces:
        spans = list(rows(table.slice(at, len(trace.spans))))
        at += len(trace.spans)
        jobs, total = plain_costs(spans, some)
        root = spans[0]["attributes"]
        for name, one in total.items():
            assert root.get(f"bk_pipeline.{name}") == pytest.approx(one, abs=2e-6)
        for span in spans[1:]:
            cost = span["attributes"].get("bk_pipeline.cost")
            expected = jobs.get(span["attributes"].get("buildkite.job.id"))
            assert cost == (expected if span["name"] == JOB else None)
            known += cost is not None
    assert known > 50


@PATIENT
@given(odd_tables(), st.floats(0, 1e6))
def test_tables_with_odd_values_and_nulls_everywhere(table, per_minute):
    some = prices((per_minute, {"queue": "a*"}), (per_minute, {"tags.os": "!x", "cluster": "*"}), 2)
    found = with_costs(table, some)
    assert found.schema == SCHEMA
    costs = found["bk_pipeline.cost"].to_pylist()
    assert all(one is None or one >= 0 for one in costs)
    for name, kind, type_ in zip(
        costs, table["name"].to_pylist(), table["buildkite.job.type"].to_pylist(), strict=True
    ):
        assert name is None or kind == BUILD or (kind == JOB and type_ == "script")


# The file of prices.

FILE = """
currency = "EUR"

[[price]]
id = "mac-2027"
queue = "mac-*"
per_minute = 0.09
since = 2027-01-01

[[price]]
id = "mac"
queue = ["mac-*", "!mac-old"]
per_minute = 0.08

[[price]]
id = "large"
cluster = "production"
pipeline = "web"
tags = { instance-type = ["m6i.*", "m7i.*"], "os.name" = "linux" }
per_minute = 1

[[price]]
id = "rest"
per_minute = 0
"""


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "costs.toml"
        path.write_text(text)
        return path

    return write


def test_file_of_prices_is_read(file):
    midnight = int(datetime(2026, 12, 31, 23, tzinfo=UTC).timestamp()) * 10**9
    assert load_prices(file(FILE), zone=ZoneInfo("Europe/Berlin")) == Prices(
        "EUR",
        (
            Price("mac-2027", 0.09, midnight, (("queue", ("mac-*",)),)),
            Price("mac", 0.08, 0, (("queue", ("mac-*", "!mac-old")),)),
            Price(
                "large",
                1.0,
                0,
                (
                    ("pipeline", ("web",)),
                    ("cluster", ("production",)),
                    ("tags.instance-type", ("m6i.*", "m7i.*")),
                    ("tags.os.name", ("linux",)),
                ),
            ),
            Price("rest", 0.0),
        ),
    )


MISTAKES = {
    "no currency": ('[[price]]\nid = "a"\nper_minute = 1', "line 1: currency: is missing."),
    "currency in words": (
        'currency = "dollars"\n[[price]]\nid = "a"\nper_minute = 1',
        "line 1: currency: expected the three capital letters of a currency, like USD.",
    ),
    "no prices": ('currency = "USD"', "line 1: price: is missing: add a [[price]]"),
    "rules": (
        'currency = "USD"\n[[rule]]\nid = "a"',
        "line 2: rule: is unknown; there are: currency, price.",
    ),
    "no id": ("[[price]]\nper_minute = 1", "line 2: price 1, id: is missing."),
    "no price": ('[[price]]\nid = "a"', 'line 2: price "a", per_minute: is missing.'),
    "negative": (
        '[[price]]\nid = "a"\nper_minute = -0.1',
        'line 4: price "a", per_minute: should be greater than or equal to 0.',
    ),
    "text": (
        '[[price]]\nid = "a"\nper_minute = "0.1"',
        'line 4: price "a", per_minute: should be a valid number.',
    ),
    "true": (
        '[[price]]\nid = "a"\nper_minute = true',
        'line 4: price "a", per_minute: should be a valid number.',
    ),
    "infinite": (
        '[[price]]\nid = "a"\nper_minute = inf',
        'line 4: price "a", per_minute: should be',
    ),
    "not a number": (
        '[[price]]\nid = "a"\nper_minute = nan',
        'line 4: price "a", per_minute: should be',
    ),
    "by the hour": (
        '[[price]]\nid = "a"\nper_hour = 1\nper_minute = 1',
        'line 4: price "a", per_hour: is unknown; there are: id, per_minute',
    ),
    "day in quotes": (
        '[[price]]\nid = "a"\nper_minute = 1\nsince = "2026-01-01"',
        'line 5: price "a", since: expected a day without quotes, like 2026-01-31.',
    ),
    "time of a day": (
        '[[price]]\nid = "a"\nper_minute = 1\nsince = 2026-01-01T00:00:00Z',
        'line 5: price "a", since: expected a day without quotes, like 2026-01-31.',
    ),
    "no queue": (
        '[[price]]\nid = "a"\nper_minute = 1\nqueue = []',
        'line 5: price "a", queue: expected a text, or a list of texts',
    ),
    "number of a tag": (
        '[[price]]\nid = "a"\nper_minute = 1\n[price.tags]\nsize = 4',
        'line 6: price "a", tags: expected a text, or a list of texts',
    ),
    "same id": (
        '[[price]]\nid = "a"\nqueue = "x"\nper_minute = 1\n[[price]]\nid = "a"\nper_minute = 1',
        'line 7: price "a", id: price 1 has the same id "a".',
    ),
    "after the price of all": (
        '[[price]]\nid = "all"\nper_minute = 1\n[[price]]\nid = "mac"\nqueue = "mac"\nper_minute = 2',
        'line 5: price "mac": never counts, because price "all" above it matches the same jobs.',
    ),
    "newer price below": (
        """[[price]]
id = "old"
queue = "mac"
per_minute = 1
[[price]]
id = "new"
queue = "mac"
since = 2027-01-01
per_minute = 2""",
        'line 6: price "new": never counts, because price "old" above it matches the same jobs.',
    ),
}


@pytest.mark.parametrize(("text", "message"), MISTAKES.values(), ids=list(MISTAKES))
def test_mistake_in_the_file_is_named_with_its_line(file, text, message):
    if not text.startswith("currency") and "currency" not in message:
        text = f'currency = "USD"\n{text}'
    path = file(text)
    with pytest.raises(ConfigError) as raised:
        load_prices(path, zone=UTC_ZONE)
    assert f"{path} {message}" in str(raised.value)


def test_missing_file_is_named_with_its_variable(tmp_path):
    with pytest.raises(ConfigError, match=r"BK_PIPELINE_COSTS names .*docs/cost.md has examples"):
        load_prices(tmp_path / "none.toml", zone=UTC_ZONE)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"since": date(2027, 1, 1)}, {}),
        ({"since": date(2027, 1, 1)}, {"since": date(2026, 1, 1)}),
        ({"queue": "mac"}, {}),
        ({"queue": "mac"}, {"queue": "mac*"}),
        ({"queue": "mac", "tags": {"os": "x"}}, {"queue": "mac", "tags": {"os": "y"}}),
    ],
)
def test_price_that_can_count_is_accepted(file, first, second):
    given = [
        PriceRule(id=f"p{n}", per_minute=1, **one).model_dump(exclude_none=True)
        for n, one in enumerate((first, second))
    ]
    text = 'currency = "USD"\n' + "\n".join(map(_toml, given))
    assert len(load_prices(file(text), zone=UTC_ZONE).prices) == 2


def _toml(price):
    lines = [f'id = "{price["id"]}"', "per_minute = 1"]
    lines += [f"since = {price['since']}"] if "since" in price else []
    lines += [f"queue = {list(price['queue'])!r}"] if "queue" in price else []
    lines += [f"tags.{key} = {list(globs)!r}" for key, globs in price["tags"].items()]
    return "[[price]]\n" + "\n".join(lines)
