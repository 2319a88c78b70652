from __future__ import annotations

import io
import os
import re
from contextlib import closing

import pytest
from rich.console import Console

from bk_pipeline.cli.demo import environment
from bk_pipeline.cli.progress import Advance, Bar, Log, shown_on
from bk_pipeline.lines import Lines
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline_tests.cli.program import wait_until
from bk_pipeline_tests.worlds import recent_world


@pytest.fixture
def now(clock):
    return clock.monotonic


def written(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100)


def test_remaining_time_is_estimated_from_the_latest_days(clock, now):
    advance = Advance(100, now)
    assert str(advance) == "0 of 100 days"
    for seconds in (1, 1, 1):
        clock.sleep(seconds)
        advance.day_done("")
    assert advance.left == "about 0:01:37 left"
    for _ in range(10):
        clock.sleep(60)
        advance.day_done("7 new builds")
    assert str(advance) == "13 of 100 days, 7 new builds, about 1:27:00 left"


def test_no_remaining_time_is_shown_at_the_end(clock, now):
    advance = Advance(1, now)
    clock.sleep(5)
    advance.day_done("")
    assert str(advance) == "1 of 1 day"


def test_progress_lines_are_rate_limited_without_a_terminal(clock, now):
    console = written(terminal=False)
    lines = Log(console, Advance(3, now), now)
    with lines.shown():
        for second in range(25):
            lines.tell(f"2026-11-01: {second} builds listed")
            clock.sleep(1)
        lines.day_done("25 new builds")
        clock.sleep(10)
        lines.day_done("30 new builds")
        lines.say("2026-11-02: something is wrong [403]")
    assert console.file.getvalue().splitlines() == [
        "0 of 3 days. 2026-11-01: 10 builds listed",
        "0 of 3 days. 2026-11-01: 20 builds listed",
        "2 of 3 days, 30 new builds, about 0:00:18 left.",
        "2026-11-02: something is wrong [403]",
    ]


def test_terminal_shows_a_progress_bar_with_the_current_step(now):
    console = written(terminal=True)
    bar = Bar(console, Advance(3, now))
    with bar.shown():
        bar.tell("2026-11-01: 100 builds listed")
        bar.day_done("100 new builds, 2,000 spans made")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())
    assert "2026-11-01: 100 builds listed" in shown
    assert "1/3 days" in shown
    assert "100 new builds, 2,000 spans made" in shown


def test_wait_stays_visible_while_other_progress_arrives(clock, now):
    bar = Bar(written(terminal=True), Advance(3, now), now)
    bar.tell("100 events accepted")
    bar.wait("Honeycomb is away. Attempt 2 follows in 40 s.")
    bar.tell("200 events accepted")
    assert bar.line == "Honeycomb is away. Attempt 2 follows in 40 s."
    clock.sleep(10)
    bar.tell("300 events accepted")
    assert bar.line == "300 events accepted"


def test_wait_is_printed_as_soon_as_the_rate_limit_allows(clock, now):
    written_at = []
    lines = Lines(lambda line: written_at.append((now(), line)), now)
    with closing(lines):
        lines.wait("first")  # nothing was written yet
        for _ in range(3):
            clock.sleep(1)
            lines.wait("too soon, and the last of them")
        lines.progress("too soon")
        assert [line for _, line in written_at] == ["first"]
        clock.sleep(7)
        lines.progress("not now: a wait was kept")
        lines.progress("too soon")
        clock.sleep(10)
        lines.progress("now")
    assert [line for _, line in written_at] == ["first", "too soon, and the last of them", "now"]
    assert [one[0] - written_at[0][0] for one in written_at] == [0, 10, 20]


def test_wait_is_printed_even_if_nothing_follows(monkeypatch):
    monkeypatch.setattr("bk_pipeline.lines.LINE_EVERY_S", 0.2)
    printed = []
    lines = Lines(printed.append)
    with closing(lines):
        lines.write("2026-11-01: something is wrong")
        lines.wait("waiting for an hour")
        wait_until(lambda: len(printed) > 1)
    assert printed == ["2026-11-01: something is wrong", "waiting for an hour"]


@pytest.mark.parametrize(("terminal", "kind"), [(True, Bar), (False, Log)])
def test_console_type_selects_bar_or_lines(terminal, kind, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as CI services do
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = os.openpty() if terminal else os.pipe()
    with os.fdopen(theirs, "w") as file:
        assert isinstance(shown_on(Console(file=file), 1), kind)
    os.close(ours)


RULES = """
[colors]
done = "#c62828"

[[rule]]
id = "passed"
state = "passed"
type = "done"
message = "done"
"""


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
@pytest.mark.parametrize(
    ("command", "service", "path"),
    [
        ("trace {url}", "buildkite", "*"),
        ("doctor", "buildkite", "*"),
        ("doctor", "otlp", "/v1/traces"),
        ("markers apply", "honeycomb", "/1/marker_settings/*"),
        ("markers plan", "honeycomb", "/1/marker_settings/*"),
    ],
)
def test_each_command_reports_its_retries(call, tmp_path, *, command, service, path, terminal):
    (tmp_path / "markers.toml").write_text(RULES)
    sandbox = Sandbox(recent_world(days=1, builds_per_day=3))
    sandbox.world.add_build(build := sandbox.world.finish_build_now())
    with running(sandbox) as url:
        settings = environment(sandbox, url) | {
            "BK_PIPELINE_MARKERS": "markers.toml",
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        }
        if terminal:
            settings |= {"FORCE_COLOR": "1", "TERM": "xterm"}
        sandbox.faults.inject(service, "status", path=path, status=503)
        done = call(*command.format(url=build["web_url"]).split(), **settings)
    assert done.returncode == 0, done.stderr
    told = " ".join(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", " ", done.stdout + done.stderr).split())
    assert "Attempt 2 follows in" in told
