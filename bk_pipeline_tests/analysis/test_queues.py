"""The replay of recorded jobs, on records of which the truth is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, timedelta
from heapq import heapify, heappop, heappush
from itertools import pairwise
from random import Random

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bk_pipeline.analysis.queries import query_text
from bk_pipeline.analysis.queue_record import record_of, trace_of
from bk_pipeline.analysis.queues import compare
from bk_pipeline.analysis.replay import replay
from bk_pipeline.analysis.sql import Database
from bk_pipeline.sandbox.as_of import build_as_of
from bk_pipeline.sandbox.world import World
from bk_pipeline.spans.records import decode_build
from bk_pipeline.spans.table import table_of
from bk_pipeline.spans.tree import spans_for_build
from bk_pipeline_tests.builders import (
    make_agent,
    make_block,
    make_build,
    make_job,
    make_retry,
    make_trace,
    make_trigger,
    ns_at,
    uid,
)

S = 1_000_000_000
T0 = 1_790_000_000 * S
PERIOD = {"since": "2000-01-01", "until": "2100-01-01"}
COLUMNS = {
    "build_id": pa.string(),
    "job_id": pa.string(),
    "retries_job_id": pa.string(),
    "retried_in_job_id": pa.string(),
    "triggered_build_id": pa.string(),
    "type": pa.string(),
    "cluster_id": pa.string(),
    "cluster": pa.string(),
    "queue": pa.string(),
    "agent": pa.string(),
    "priority": pa.int64(),
    "started": pa.bool_(),
    "wait_known": pa.bool_(),
    "ready_ns": pa.int64(),
    "start_ns": pa.int64(),
    "end_ns": pa.int64(),
}
DEFAULTS = {
    "type": "script",
    "cluster_id": "",
    "queue": "default",
    "priority": 0,
    "started": True,
    "wait_known": True,
}


def jobs_table(rows):
    """A result of the query `queue_jobs`. Times in seconds: (ready, start, end)."""
    filled = []
    for number, row in enumerate(rows):
        ready, start, end = (T0 + round(one * S) for one in row["times"])
        times = {"ready_ns": ready, "start_ns": start, "end_ns": end}
        filled.append({"job_id": f"job {number}", **DEFAULTS, **times, **row})
    columns = {name: [row.get(name) for row in filled] for name in COLUMNS}
    return pa.table(columns, schema=pa.schema(list(COLUMNS.items())))


def answer_of(table, change=lambda level: level, chosen=lambda _: True, lengths=None):
    record = record_of(table)
    return compare(record, change, chosen, lengths or dict.fromkeys(record.builds, 100.0))


# A true model, apart from the code under test: c agents, first come first served, builds in three
# stages that wait for each other.


@dataclass
class Model:
    """What happens in each build: when it begins, and how long the jobs of each stage run."""

    builds: list[tuple[int, list[list[int]]]]
    agents: int
    latency: int = S
    rows: list[dict] = field(default_factory=list)

    def run(self):
        """Return the rows of all jobs, with the names of the agents that were idle longest."""
        idle = [(0, f"agent {number}") for number in range(self.agents)]
        heapify(idle)
        arrivals = [(begin, 0, number, 0) for number, (begin, _) in enumerate(self.builds)]
        heapify(arrivals)
        unfinished, serial = {}, len(arrivals)
        waiting = []
        while arrivals or waiting:
            # The next assignment, or the next arrival if that is earlier.
            if waiting and (not arrivals or max(idle[0][0], waiting[0][0]) <= arrivals[0][0]):
                ready, _, number, stage, run = heappop(waiting)
                free, agent = heappop(idle)
                start = max(free, ready) + self.latency
                heappush(idle, (start + run, agent))
                self._record(number, agent, ready, start, start + run)
                ends = unfinished.setdefault((number, stage), [])
                ends.append(start + run)
                stages = self.builds[number][1]
                if len(ends) == len(stages[stage]) and stage + 1 < len(stages):
                    serial += 1
                    heappush(arrivals, (max(ends) + S // 20, serial, number, stage + 1))
            else:
                ready, _, number, stage = heappop(arrivals)
                for run in self.builds[number][1][stage]:
                    serial += 1
                    heappush(waiting, (ready, serial, number, stage, run))
        return self.rows

    def _record(self, number, agent, *times):
        seconds = [time / S for time in times]
        self.rows.append({"build_id": f"build {number:05}", "agent": agent, "times": seconds})


def random_builds(rng, count, *, per_hour=60):
    begin, builds = 0, []
    for _ in range(count):
        begin += int(rng.expovariate(per_hour / 3600) * S)
        stages = [
            [int(rng.lognormvariate(3.5, 0.7) * S) for _ in range(rng.randint(1, size))]
            for size in (1, 4, 2)
        ]
        builds.append((begin, stages))
    return builds


def sorted_waits(rows):
    return sorted((row["build_id"], round(row["times"][1] - row["times"][0], 3)) for row in rows)


def replayed_waits(record, agents=None):
    done = replay(trace_of(record), agents or [queue.agents for queue in record.queues])
    found = [
        (record.builds[number], round((done.start[job] - done.ready[job]) / S, 3))
        for number, (begin, until) in enumerate(pairwise(record.bounds))
        for job in range(begin, until)
    ]
    return sorted(found)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("agents", [3, 4, 7])
def test_replay_without_a_change_repeats_every_wait_of_the_true_model(seed, agents):
    rows = Model(random_builds(Random(seed), 200), agents).run()
    record = record_of(jobs_table(rows))
    assert max(level for _, level in record.queues[0].agents) == agents
    assert replayed_waits(record) == sorted_waits(rows)
    answer = answer_of(jobs_table(rows))
    assert answer.error == 0
    assert answer.queues[0].recorded.p95_s > 5


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("more", [1, 2, 20])
def test_replay_with_more_agents_is_the_true_model_with_more_agents(seed, more):
    builds = random_builds(Random(seed), 200)
    record = record_of(jobs_table(Model(builds, 4).run()))
    changed = [[(at, level + more) for at, level in queue.agents] for queue in record.queues]
    changed[0].insert(0, (0, more))
    assert replayed_waits(record, changed) == sorted_waits(Model(builds, 4 + more).run())


def test_with_fewer_agents_the_replay_is_close_to_the_true_model():
    builds = random_builds(Random(5), 300, per_hour=40)
    before, after = Model(builds, 5).run(), Model(builds, 4).run()
    answer = answer_of(jobs_table(before), lambda level: level - 1)
    true = [row["times"][1] - row["times"][0] for row in after]
    assert answer.queues[0].changed.mean_s == pytest.approx(sum(true) / len(true), rel=0.02)
    assert answer.builds.changed.mean_s > answer.builds.replayed.mean_s


@pytest.fixture(scope="module", params=[1, 2, 3])
def sandbox_jobs(request):
    """The jobs of a week in a sandbox whose jobs wait for a limited number of agents."""
    return sandbox_table(World(request.param, 6, 120, date(2026, 11, 20), limited_agents=True))


def sandbox_table(world):
    first, last = world.first_and_last_day()
    builds = [
        one for n in range((last - first).days + 1) for one in world.builds(first + timedelta(n))
    ]
    payloads = [build_as_of(one, one.created_ms + 30 * 86_400_000) for one in builds]
    traces = [
        spans_for_build(decode_build(msgspec.json.encode(one)))
        for one in payloads
        if one["finished_at"]
    ]
    spans = table_of([one for one in traces if one])
    return query_of(spans, "queue_jobs")


def query_of(spans, name, **parameters):
    """The result of a packaged query over a span table."""
    spans = spans.append_column("day", pa.array(["2026-11-20"] * len(spans)).cast(pa.string()))
    spans = spans.set_column(
        spans.schema.get_field_index("day"), "day", spans["day"].cast(pa.date32())
    )
    several = spans.slice(0, 0).append_column("revision", pa.array([], pa.int64()))
    with Database(spans, several, memory_mib=512) as database:
        return database.table(query_text(name), PERIOD | parameters)


def test_replay_of_a_sandbox_repeats_its_waits_within_5_percent(sandbox_jobs):
    answer = answer_of(sandbox_jobs)
    assert answer.error < 0.05
    for queue in answer.queues:
        assert queue.error < 0.1
        assert queue.replayed.p95_s == pytest.approx(queue.recorded.p95_s, rel=0.1, abs=1)
        assert queue.replayed.mean_s == pytest.approx(queue.recorded.mean_s, rel=0.1, abs=1)
    assert answer.queues[0].recorded.p95_s > 60


def test_replay_with_more_agents_predicts_the_sandbox_that_has_them():
    def jobs(more):
        today = date(2026, 11, 20)
        return sandbox_table(World(4, 6, 300, today, limited_agents=True, more_agents=more))

    def answered(table, change):
        lengths = {
            row["build_id"]: (row["end_ns_max"] - row["ready_ns_min"]) / S
            for row in table.group_by("build_id")
            .aggregate([("end_ns", "max"), ("ready_ns", "min")])
            .to_pylist()
        }
        return answer_of(table, change, lengths=lengths)

    predicted = answered(jobs(0), lambda level: level + 2)
    true = answered(jobs(2), lambda level: level)
    for queue in predicted.queues:
        other = next(
            one
            for one in true.queues
            if (one.cluster_id, one.queue) == (queue.cluster_id, queue.queue)
        )
        assert queue.agents_changed == other.agents
        if queue.jobs > 500:
            # Other random numbers: the same distribution, not the same jobs.
            assert queue.changed.mean_s == pytest.approx(other.recorded.mean_s, rel=0.3, abs=2)
    mean = true.builds.replayed.mean_s
    assert predicted.builds.changed.mean_s == pytest.approx(mean, rel=0.08)
    assert predicted.builds.path_wait_s > 4 * true.builds.path_wait_s


# What waits for what.


def record_of_builds(*payloads):
    return record_of(query_of(table_of([make_trace(one) for one in payloads]), "queue_jobs"))


def with_more(record, more=1):
    earliest = min(record.ready)
    return [
        [(earliest, more), *((at, level + more) for at, level in queue.agents)]
        for queue in record.queues
    ]


def test_later_jobs_become_ready_earlier_when_earlier_ones_wait_less():
    one = make_job("one", runnable_s=0, wait_s=0, run_s=100)
    two = make_job("two", runnable_s=0, wait_s=100, run_s=50)
    last = make_job("last", runnable_s=150.05, wait_s=0, run_s=10)
    record = record_of_builds(make_build([one, two, last]))
    done = replay(trace_of(record), with_more(record))
    # The last job waits for both of the others, so for the one that ran 100 s.
    assert [(at - ns_at(0)) / S for at in done.ready] == [0, 0, 100.05]


def test_jobs_uploaded_while_a_job_runs_follow_its_start():
    other = make_build([make_job("other", runnable_s=-1, wait_s=0, run_s=31)], id=uid("build 1"))
    upload = make_job("upload", runnable_s=0, wait_s=30, run_s=20)
    test = make_job("test", runnable_s=44, wait_s=6, run_s=10)
    record = record_of_builds(other, make_build([upload, test]))
    done = replay(trace_of(record), with_more(record))
    ready = [(at - ns_at(0)) / S for at in done.ready]
    assert sorted(ready) == [-1, 0, 14]


def test_a_retry_follows_its_attempt_alone():
    failed = make_job("flaky", runnable_s=0, wait_s=60, run_s=10, state="failed")
    retry = make_retry(failed, made_s=100, kind="automatic", runnable_s=100, wait_s=0, run_s=5)
    hog = make_job("hog", runnable_s=0, wait_s=0, run_s=60)
    record = record_of_builds(make_build([hog, failed, retry]))
    done = replay(trace_of(record), with_more(record))
    # The person or rule took 30 s, and still does; the job that ran 60 s does not matter.
    assert sorted((at - ns_at(0)) / S for at in done.ready) == [0, 0, 40]


def test_people_at_block_steps_take_as_long_as_recorded():
    first = make_job("first", runnable_s=0, wait_s=60, run_s=10)
    hog = make_job("hog", runnable_s=0, wait_s=0, run_s=60, agent=make_agent())
    gate = make_block(unblocked_s=1070)
    last = make_job("last", runnable_s=1070.1, wait_s=0, run_s=10)
    builds = make_build([first, gate, last]), make_build([hog], id=uid("build 1"), number=1)
    record = record_of_builds(*builds)
    done = replay(trace_of(record), with_more(record))
    assert max(done.ready) == ns_at(1010.1)


def test_a_triggered_build_begins_and_ends_earlier_and_so_does_its_trigger_job():
    def agent(name):
        return make_agent(name)

    hog = make_job("hog", runnable_s=0, wait_s=0, run_s=50, agent=agent("linux-1"))
    first = make_job("first", runnable_s=0, wait_s=50, run_s=10, agent=agent("linux-1"))
    child = uid("build 2")
    trigger = make_trigger(
        "trigger", runnable_s=60.1, run_s=30, triggered={"id": child, "number": 2, "web_url": "x"}
    )
    last = make_job("last", runnable_s=90.3, wait_s=0, run_s=1, agent=agent("linux-1"))
    inside = make_job("inside", runnable_s=60.3, wait_s=0, run_s=29, agent=agent("linux-1"))
    record = record_of_builds(
        make_build([hog], id=uid("build 1"), number=1),
        make_build([first, trigger, last]),
        make_build([inside], id=child, number=2, created_at="2026-03-02T09:01:00.250Z"),
    )
    done = replay(trace_of(record), with_more(record))
    assert sorted((at - ns_at(0)) / S for at in done.ready) == [0, 0, 10.1, 10.3, 40.3]
    answer = compare(record, lambda level: level + 1, lambda _: True, {child: 29.2})
    # It took as long as before: it began as much earlier as it ended.
    assert answer.builds.changed.mean_s == pytest.approx(29.2)


def test_jobs_that_never_started_take_no_agent_and_end_as_much_later():
    one = make_job("one", runnable_s=0, wait_s=0, run_s=10)
    canceled = make_job("canceled", runnable_s=5, run_s=None, state="canceled", finished_at=None)
    canceled["finished_at"] = "2026-03-02T09:05:00.000Z"
    two = make_job("two", runnable_s=6, wait_s=4, run_s=10)
    record = record_of_builds(make_build([one, canceled, two]))
    answer = compare(record, lambda level: level, lambda _: True, {})
    assert (answer.queues[0].jobs, answer.error) == (2, 0)
    assert replay(trace_of(record), [record.queues[0].agents]).end.count(ns_at(300)) == 1


# Agents and latencies.


def test_a_wait_beside_an_idle_agent_is_not_for_agents():
    # The only agent was idle, yet each job waited 20 s: its agent asks for work that seldom.
    rows = [
        {"build_id": str(n), "agent": "a", "times": (n * 100, n * 100 + 20, n * 100 + 50)}
        for n in range(20)
    ]
    [queue] = answer_of(jobs_table(rows), lambda level: level + 10).queues
    assert queue.for_agents == 0
    assert queue.changed == queue.replayed == queue.recorded
    assert queue.recorded.mean_s == 20


def test_agents_that_had_to_boot_are_not_there_before():
    # A host with one agent runs two jobs each hour, the first of which waits 3 minutes for it.
    rows = []
    for n in range(30):
        begin = n * 3600
        for wait, at in ((180, 0), (2, 240)):
            start = begin + at + wait
            rows.append(
                {
                    "build_id": f"{n} {at}",
                    "agent": f"host {n}",
                    "times": (begin + at, start, start + 30),
                }
            )
    table = jobs_table(rows)
    answer = answer_of(table, lambda level: level + 1)
    [queue] = answer.queues
    assert queue.recurring
    assert answer.error < 0.05
    assert queue.replayed.p95_s == pytest.approx(180, abs=1)
    # An agent that is always there has no such wait.
    assert queue.changed.p95_s <= 3


def test_an_agent_that_was_away_for_long_counts_from_its_return():
    night = 10 * 3600
    rows = [
        {"build_id": str(n), "agent": "a", "times": (n * 60, n * 60 + 1, n * 60 + 30)}
        for n in range(10)
    ]
    rows += [
        {"build_id": "morning", "agent": "a", "times": (night, night + 600, night + 630)},
        {"build_id": "next", "agent": "a", "times": (night + 700, night + 701, night + 710)},
    ]
    answer = answer_of(jobs_table(rows), lambda level: level + 1)
    assert answer.error < 0.01
    assert answer.queues[0].changed.p95_s < 2
    assert answer.queues[0].replayed.p95_s > 200


@pytest.mark.parametrize("named", [True, False])
def test_agents_that_run_one_job_each_are_counted_by_the_most_jobs_at_once(named):
    # At most 4 pods: a burst of 12 jobs a day takes three rounds, with 5 s to start each pod.
    rows = []
    for day in range(5):
        for n in range(12):
            ready, start = day * 86_400, day * 86_400 + n // 4 * 65 + 5
            agent = f"pod {day} {n}" if named else None
            times = (ready, start, start + 60)
            rows.append({"build_id": f"{day} {n}", "agent": agent, "times": times})
    answer = answer_of(jobs_table(rows), lambda level: level + 8)
    [queue] = answer.queues
    assert not queue.recurring
    assert (queue.agents, queue.agents_changed) == (4, 12)
    assert answer.error < 0.01
    assert queue.changed.p95_s == 5


def test_queues_of_the_same_name_in_two_clusters_do_not_share_agents():
    rows = [
        {
            "build_id": f"{cluster} {n}",
            "agent": "a",
            "cluster_id": cluster,
            "times": (n, n + 1, n + 2),
        }
        for cluster in ("x", "y")
        for n in range(0, 20, 2)
    ]
    answer = answer_of(jobs_table(rows))
    assert [(one.cluster_id, one.jobs, one.agents) for one in answer.queues] == [
        ("x", 10, 1),
        ("y", 10, 1),
    ]


def test_only_chosen_queues_change_and_builds_that_use_them_count():
    rows = [
        {"build_id": "1", "agent": "a", "queue": "mac", "times": (0, 0, 100)},
        {"build_id": "2", "agent": "a", "queue": "mac", "times": (1, 100, 200)},
        {"build_id": "3", "agent": "b", "queue": "linux", "times": (0, 0, 100)},
        {"build_id": "4", "agent": "b", "queue": "linux", "times": (1, 100, 200)},
    ]
    answer = answer_of(jobs_table(rows), lambda level: level + 1, lambda queue: queue.name == "mac")
    assert [one.queue for one in answer.queues] == ["mac"]
    assert answer.queues[0].changed.mean_s == 0
    assert answer.builds.builds == 2
    assert answer.builds.path_wait_s == pytest.approx(49.5)
    assert answer.builds.path_wait_changed_s == 0
    assert answer.builds.changed.mean_s == pytest.approx(100 - 99 / 2)


def test_one_agent_remains_whatever_is_taken_away():
    rows = Model(random_builds(Random(1), 20), 3).run()
    [queue] = answer_of(jobs_table(rows), lambda level: level - 50).queues
    assert queue.agents_changed == 1


def test_nothing_and_jobs_without_known_waits_have_no_answer():
    assert answer_of(jobs_table([])).queues == []
    rows = [{"build_id": "1", "agent": "a", "wait_known": False, "times": (0, 0, 5)}]
    answer = answer_of(jobs_table(rows))
    assert (answer.queues, answer.error) == ([], None)


ROW = st.fixed_dictionaries(
    {
        "build_id": st.sampled_from("abc"),
        "agent": st.sampled_from([None, "x", "y", ""]),
        "cluster_id": st.sampled_from(["", "k"]),
        "type": st.sampled_from(["script", "script", "trigger", "manual"]),
        "priority": st.integers(-3, 3),
        "started": st.booleans(),
        "wait_known": st.booleans(),
        "retries_job_id": st.sampled_from([None, "job 0", "job 3", "job 99", ""]),
        "retried_in_job_id": st.sampled_from([None, "job 1", "job 2"]),
        "triggered_build_id": st.sampled_from([None, "a", "b", "z"]),
        "times": st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)).map(
            lambda some: sorted(one * 0.5 for one in some)
        ),
    }
)


@settings(max_examples=300, deadline=None)
@given(st.lists(ROW, max_size=12), st.integers(-2, 3))
def test_any_record_can_be_replayed(rows, more):
    for row in rows:
        row["queue"] = "default" if row["type"] == "script" else None
    record = record_of(jobs_table(rows))
    answer = compare(
        record, lambda level: level + more, lambda _: True, dict.fromkeys(record.builds, 1.0)
    )
    done = replay(trace_of(record), [queue.agents for queue in record.queues])
    for ready, start, end in zip(done.ready, done.start, done.end, strict=True):
        assert ready <= start <= end
    if answer.builds:
        assert answer.builds.path_wait_s >= 0
