"""`bk-pipeline queues`: where jobs wait for agents, and whether more agents would help."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

from bk_pipeline.analysis.queries import query_text
from bk_pipeline.analysis.queue_record import Queue, record_of
from bk_pipeline.analysis.queues import Answer, BuildsAnswer, Change, QueueAnswer, compare
from bk_pipeline.analysis.sql import Database
from bk_pipeline.app import App
from bk_pipeline.cli.results import refuse_binary_terminal, seconds, write_answer
from bk_pipeline.cli.sql import open_database, period_of
from bk_pipeline.display import printable
from bk_pipeline.errors import ConfigError
from bk_pipeline.settings import Settings
from bk_pipeline.text import counted, matches, one_line

SLOTS = {None: "queue", "hour": "hour_of_day", "date-hour": "hour"}
CHANGE = re.compile(r"(?P<sign>[+-]?)(?P<number>[0-9]{1,6})(?P<percent>%?)")
ALL_HOURS = {"from_hour": 0, "to_hour": 24}
HOURS = 24
# The busy hours are the shortest period of the day with this share of all waiting.
BUSY_SHARE = 0.8
LONGEST_BUSY = 20
# Waits below this are what it takes to start a job on a free agent.
NOTABLE_S = 10
# A change below one of these is none.
LEAST_SHARE, LEAST_S = 0.05, 1
# Above this error, something else than the number of agents decides how long jobs wait.
MOST_ERROR = 0.2
LONGEST_NAME = 30

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Result:
    """What to show: sentences, the table for reading, and the table with every field."""

    lines: list[str]
    shown: list[dict[str, Any]]
    table: pa.Table


def queues(
    *,
    since: date | None,
    until: date | None,
    queue: tuple[str, ...],
    agents: str | None,
    by: str | None,
    format_: str,
    output: Path | None,
    limit: int | None,
) -> None:
    """Show the queues of a period, or replay them with other numbers of agents."""
    if agents is not None and by is not None:
        raise ConfigError("--by does not go with --agents.")
    change = None if agents is None else change_of(agents)
    refuse_binary_terminal(format_, output)
    app = App(Settings.load())
    with open_database(app) as database:
        days = period_of(app, since, until)
        if change is None:
            result = _recorded(database, days, queue, by, zone=str(app.settings.timezone))
        else:
            result = _replayed(database, days, queue, change)
        write_answer(
            result.lines, result.shown, result.table, format_=format_, output=output, limit=limit
        )


def _nothing(database: Database, days: Row, globs: Sequence[str]) -> list[str]:
    """Say that there is no job in the period, or none of the queues that were asked for."""
    known = database.table(
        "SELECT DISTINCT coalesce(queue, 'default') AS queue FROM jobs "
        "WHERE day BETWEEN $since::DATE AND $until::DATE AND type = 'script' ORDER BY queue",
        days,
    )["queue"].to_pylist()
    period = f"from {days['since']} to {days['until']}"
    if globs and known:
        names = ", ".join(one_line(name, LONGEST_NAME) for name in known)
        return [f"No queue matches {' '.join(globs)}. Queues {period}: {names}."]
    return [f"No job waited or ran {period}. Choose other days with --since and --until."]


# The record.


def _recorded(
    database: Database, days: Row, globs: Sequence[str], by: str | None, *, zone: str
) -> _Result:
    def rows_by(slot: str, hours: Row = ALL_HOURS) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = _chosen_rows(
            database.table(query_text("queues"), {**days, "by": slot, "zone": zone, **hours}),
            globs,
        ).to_pylist()
        return rows

    table = _chosen_rows(
        database.table(query_text("queues"), {**days, "by": SLOTS[by], "zone": zone, **ALL_HOURS}),
        globs,
    )
    if by is None:
        table = table.drop_columns(["slot"])
    if not table.num_rows:
        return _Result(_nothing(database, days, globs), [], table)
    rows = table.to_pylist()
    summary = rows if by is None else rows_by("queue")
    labels = _labels(summary)
    bottleneck = next((row for row in summary if (row["wait_p95_s"] or 0) >= NOTABLE_S), None)
    if bottleneck is None:
        lines = [_no_bottleneck(summary, labels)]
    else:
        hours = _busy_hours(
            [row for row in rows_by("hour_of_day") if _key(row) == _key(bottleneck)]
        )
        busy = bottleneck
        if hours:
            begin, end = hours
            busy = next(
                row
                for row in rows_by("queue", {"from_hour": begin, "to_hour": end})
                if _key(row) == _key(bottleneck)
            )
        lines = _bottleneck(busy, labels[_key(busy)], hours, zone)
    if by is not None:
        rows.sort(key=lambda row: (list(labels).index(_key(row)), row["slot"]))
    return _Result(lines, [_shown(row, labels) for row in rows], table)


def _chosen_rows(table: pa.Table, globs: Sequence[str]) -> pa.Table:
    rows = zip(
        *(table[name].to_pylist() for name in ("cluster_id", "cluster", "queue")), strict=True
    )
    return table.filter(pa.array([_matches(globs, *row) for row in rows], pa.bool_()))


def _matches(globs: Sequence[str], cluster_id: str | None, cluster: str | None, name: str) -> bool:
    """Return whether a glob matches the queue, or the queue after its cluster and a slash."""
    names = [name, *(f"{one}/{name}" for one in (cluster, cluster_id) if one)]
    return not globs or any(matches(one, globs) for one in names)


def _key(row: Row) -> tuple[str, str]:
    return row["cluster_id"] or "", row["queue"]


def _labels(rows: Sequence[Row]) -> dict[tuple[str, str], str]:
    """Return a name for each queue: with its cluster if another one has a queue of that name."""
    counts = Counter(row["queue"] for row in rows)
    labels = {}
    for row in rows:
        label = one_line(row["queue"], LONGEST_NAME)
        if counts[row["queue"]] > 1:
            cluster = row["cluster"] or (row["cluster_id"] or "")[:8] or "no cluster"
            label = f"{one_line(cluster, LONGEST_NAME)}/{label}"
        labels[_key(row)] = label
    return labels


def _busy_hours(rows: Sequence[Row]) -> tuple[int, int] | None:
    """Return the shortest period of the day with most of the waiting, from and until an hour.

    None if it is nearly the whole day. It can include midnight.
    """
    waited = [0.0] * HOURS
    for row in rows:
        waited[int(row["slot"][:2])] += row["waited_s"]
    for length in range(1, LONGEST_BUSY):
        sums = [sum(waited[(at + n) % HOURS] for n in range(length)) for at in range(HOURS)]
        if max(sums) >= BUSY_SHARE * sum(waited):
            begin = sums.index(max(sums))
            return begin, (begin + length) % HOURS or HOURS
    return None


def _no_bottleneck(rows: Sequence[Row], labels: Mapping[tuple[str, str], str]) -> str:
    known = [row for row in rows if row["wait_p95_s"] is not None]
    if not known:
        return "How long jobs waited is not known: no job of this period has a time runnable_at."
    worst = max(known, key=lambda row: row["wait_p95_s"])
    return (
        f"No queue is short of agents: where jobs wait longest, in {labels[_key(worst)]}, "
        f"the p95 wait is {seconds(worst['wait_p95_s'])}."
    )


def _bottleneck(row: Row, label: str, hours: tuple[int, int] | None, zone: str) -> list[str]:
    when = f" between {hours[0]:02}:00 and {hours[1]:02}:00 ({zone})" if hours else ""
    sentence = (
        f"Queue {label} is the bottleneck: its p95 wait is {seconds(row['wait_p95_s'])}{when}"
    )
    if row["utilization"] is not None:
        time = "of that time" if hours else "of the time"
        sentence += f", its agents are busy {row['utilization']:.0%} {time}".replace("%", " %")
    more = max(round((row["agents"] or 0) / 4), 1)
    name = shlex.quote(printable(row["queue"]))
    return [
        f"{sentence}.",
        f"Would more agents help? bk-pipeline queues --queue {name} --agents +{more}",
    ]


def _shown(row: Row, labels: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """Return the columns for reading; averages are over the hours with waiting or running jobs."""
    utilization = row["utilization"]
    return {
        "queue": labels[_key(row)],
        **({"hour": row["slot"]} if "slot" in row else {}),
        "arrivals": row["arrivals"],
        "p50 wait": seconds(row["wait_p50_s"]),
        "p95 wait": seconds(row["wait_p95_s"]),
        "waiting": round(row["waiting"], 2),
        "max waiting": row["waiting_max"],
        "running": round(row["running"], 2),
        "max running": row["running_max"],
        "agents": None if row["agents"] is None else round(row["agents"], 1),
        "busy": "" if utilization is None else f"{utilization:.0%}".replace("%", " %"),
    }


# The replay.


@dataclass(frozen=True, slots=True)
class NewAgents:
    """A change of the number of agents, as a function and as words for "With ... in queue x"."""

    of: Change
    words: str


def change_of(text: str) -> NewAgents:
    """Return the change that `+10`, `-5`, `20` or `+50%` means.

    Raises:
        ConfigError: `text` means none.
    """
    found = CHANGE.fullmatch(text.strip())
    number = int(found["number"]) if found else 0
    percent = bool(found and found["percent"])
    nonsense = percent and found and (not found["sign"] or (found["sign"] == "-" and number >= 100))  # noqa: PLR2004
    if not found or not number or nonsense:
        raise ConfigError(
            f"--agents takes a change like +10, -5 or +50%, or a number like 20, not {text!r}."
        )
    more = "more" if found["sign"] == "+" else "fewer"
    sign = -1 if found["sign"] == "-" else 1
    if found["percent"]:
        factor = max(100 + sign * number, 0)
        return NewAgents(lambda level: (level * factor + 50) // 100, f"{number} % {more} agents")
    noun = "agent" if number == 1 else "agents"
    if found["sign"]:
        return NewAgents(lambda level: max(level + sign * number, 0), f"{number} {more} {noun}")
    return NewAgents(lambda _: number, f"{number} {noun}")


def _replayed(database: Database, days: Row, globs: Sequence[str], change: NewAgents) -> _Result:
    record = record_of(database.table(query_text("queue_jobs"), days))
    builds = database.table(
        "SELECT build_id, run_s FROM builds WHERE day BETWEEN $since::DATE AND $until::DATE "
        "AND run_s IS NOT NULL",
        days,
    )
    lengths = dict(zip(builds["build_id"].to_pylist(), builds["run_s"].to_pylist(), strict=True))

    def chosen(queue: Queue) -> bool:
        return _matches(globs, queue.cluster_id, queue.cluster, queue.name)

    answer = compare(record, change.of, chosen, lengths)
    rows = [_fields(one, answer) for one in answer.queues]
    table = pa.Table.from_pylist(rows, _replay_schema())
    if not rows:
        return _Result(_nothing(database, days, globs), [], table)
    labels = _labels(rows)
    shown = [_shown_change(one, labels) for one in rows]
    return _Result(_told(answer, change, labels), shown, table)


def _fields(one: QueueAnswer, answer: Answer) -> dict[str, Any]:
    """Return a row with every field of the answer about a queue, and of that about the builds."""
    row: dict[str, Any] = {
        "cluster_id": one.cluster_id or None,
        "cluster": one.cluster,
        "queue": one.queue,
        "agents_recur": one.recurring,
        "jobs": one.jobs,
        "agents": one.agents,
        "agents_changed": one.agents_changed,
        "share_for_agents": one.for_agents,
    }
    for what in ("recorded", "replayed", "changed"):
        waits = getattr(one, what)
        row[f"wait_p50_{what}_s"] = waits.p50_s
        row[f"wait_p95_{what}_s"] = waits.p95_s
        row[f"wait_mean_{what}_s"] = waits.mean_s
    row |= {"error": one.error, "error_of_all": answer.error}
    if builds := answer.builds:
        row |= {
            "builds": builds.builds,
            "build_p50_replayed_s": builds.replayed.p50_s,
            "build_p95_replayed_s": builds.replayed.p95_s,
            "build_mean_replayed_s": builds.replayed.mean_s,
            "build_p50_changed_s": builds.changed.p50_s,
            "build_p95_changed_s": builds.changed.p95_s,
            "build_mean_changed_s": builds.changed.mean_s,
            "path_wait_replayed_s": builds.path_wait_s,
            "path_wait_changed_s": builds.path_wait_changed_s,
        }
    return row


def _replay_schema() -> pa.Schema:
    """Return the columns of `_fields`, which are there without rows and without builds too."""
    stages = ("recorded", "replayed", "changed")
    quantiles = ("p50", "p95", "mean")
    reals = [
        "share_for_agents",
        *(f"wait_{quantile}_{stage}_s" for stage in stages for quantile in quantiles),
        "error",
        "error_of_all",
        *(f"build_{quantile}_{stage}_s" for stage in stages[1:] for quantile in quantiles),
        "path_wait_replayed_s",
        "path_wait_changed_s",
    ]
    return pa.schema(
        [
            *((name, pa.string()) for name in ("cluster_id", "cluster", "queue")),
            ("agents_recur", pa.bool_()),
            *((name, pa.int64()) for name in ("jobs", "agents", "agents_changed", "builds")),
            *((name, pa.float64()) for name in reals),
        ]
    )


def _shown_change(row: Row, labels: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    error = row["error"]
    return {
        "queue": labels[_key(row)],
        "jobs": row["jobs"],
        "agents": f"{row['agents']} -> {row['agents_changed']}",
        **{
            f"{quantile} {heading}": seconds(row[f"wait_{quantile}_{what}_s"])
            for quantile in ("p50", "p95")
            for heading, what in (
                ("recorded", "recorded"),
                ("replayed", "replayed"),
                ("changed", "changed"),
            )
        },
        "error": "" if error is None else _percent(error),
    }


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")


def _told(answer: Answer, change: NewAgents, labels: Mapping[tuple[str, str], str]) -> list[str]:
    """Return the sentences that answer whether the change would help."""
    first = answer.queues[0]
    label = labels[first.cluster_id, first.queue]
    one = len(answer.queues) == 1
    where = f"in {label}" if one else f"in each of {len(answer.queues)} queues"
    before, after = first.replayed.p95_s, first.changed.p95_s
    subject = "the p95 wait" if one else f"the p95 wait in {label}"
    waits = f"{subject} {_moved(before, after)}"
    mean = _moved(first.replayed.mean_s, first.changed.mean_s)
    if _same(before, after) and not _same(first.replayed.mean_s, first.changed.mean_s):
        waits += f", the mean wait {mean}"
    same = _same(before, after) and _same(first.replayed.mean_s, first.changed.mean_s)
    lines = []
    if (
        same
        and answer.builds
        and _same(answer.builds.replayed.mean_s, answer.builds.changed.mean_s)
    ):
        free = 1 - (first.for_agents or 0)
        reason = f" ({free:.0%} of the waiting there is not for a free agent)".replace("%", " %")
        lines.append(
            f"It would make no difference: with {change.words} {where}, {waits}"
            f"{reason if free >= MOST_ERROR else ''}."
        )
    else:
        lines.append(f"With {change.words} {where}, {waits}{_builds_told(answer.builds)}.")
    builds = answer.builds
    if builds and not _same(builds.path_wait_s, builds.path_wait_changed_s):
        lines.append(
            "The critical path of a build waits for agents for "
            f"{seconds(builds.path_wait_changed_s)} instead of {seconds(builds.path_wait_s)} "
            f"(the mean of {counted(builds.builds, 'build')})."
        )
    return lines + _reliability(answer, labels)


def _same(before: float, after: float) -> bool:
    difference = abs(after - before)
    return difference < LEAST_S or difference < LEAST_SHARE * before


def _moved(before: float, after: float) -> str:
    if _same(before, after):
        return f"stays at {seconds(after)}"
    verb = "falls" if after < before else "rises"
    return f"{verb} from {seconds(before)} to {seconds(after)}"


def _builds_told(builds: BuildsAnswer | None) -> str:
    if builds is None:
        return ""
    for name, before, after in (
        ("the median build ends", builds.replayed.p50_s, builds.changed.p50_s),
        ("builds on average end", builds.replayed.mean_s, builds.changed.mean_s),
    ):
        if abs(after - before) >= LEAST_S:
            how = "sooner" if after < before else "later"
            difference = seconds(abs(after - before))
            return f" and {name} {difference} {how} ({seconds(before)} -> {seconds(after)})"
    return " and builds end at the same time"


def _reliability(answer: Answer, labels: Mapping[tuple[str, str], str]) -> list[str]:
    lines = []
    if answer.error is not None:
        line = f"The replay of the record as it is differs from it by {_percent(answer.error)} of the waits"
        if answer.error > MOST_ERROR:
            line += (
                ", too much to rely on: something else than the number of agents decides how long "
                "jobs wait (docs/queues.md)"
            )
        lines.append(f"{line}.")
    counted_queues = [
        labels[one.cluster_id, one.queue] for one in answer.queues if not one.recurring
    ]
    if counted_queues:
        lines.append(
            f"In {', '.join(counted_queues)}, agents mostly run one job each: the most jobs at once "
            "on a day count as its number of agents."
        )
    return lines
