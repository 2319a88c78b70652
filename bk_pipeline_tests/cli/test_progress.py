from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from bk_pipeline.cli.progress import Advance, Bar, Lines, shown_on


@pytest.fixture
def now(clock):
    return clock.monotonic


def written(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100)


def test_the_time_left_is_that_of_the_last_days(clock, now):
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


def test_nothing_is_left_at_the_end(clock, now):
    advance = Advance(1, now)
    clock.sleep(5)
    advance.day_done("")
    assert str(advance) == "1 of 1 days"


def test_elsewhere_a_line_is_printed_now_and_then(clock, now):
    console = written(terminal=False)
    lines = Lines(console, Advance(3, now), now)
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


def test_a_terminal_has_a_bar_with_what_is_being_done(now):
    console = written(terminal=True)
    bar = Bar(console, Advance(3, now))
    with bar.shown():
        bar.tell("2026-11-01: 100 builds listed")
        bar.day_done("100 new builds, 2,000 spans made")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())
    assert "2026-11-01: 100 builds listed" in shown
    assert "1/3 days" in shown
    assert "100 new builds, 2,000 spans made" in shown


@pytest.mark.parametrize(("terminal", "kind"), [(True, Bar), (False, Lines)])
def test_the_console_decides(terminal, kind):
    assert isinstance(shown_on(written(terminal=terminal), 1), kind)
