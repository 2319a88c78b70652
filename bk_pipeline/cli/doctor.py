"""`bk-pipeline doctor`: check the setup and say what to fix."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

from rich.table import Table
from rich.text import Text

from bk_pipeline.cli.output import Console, echo
from bk_pipeline.clock import SystemClock
from bk_pipeline.doctor.checkup import Checkup
from bk_pipeline.doctor.findings import CheckResult, Finding, Installation, Verdict, exit_status, ok
from bk_pipeline.http.retry import report_pauses_to
from bk_pipeline.lines import Lines
from bk_pipeline.text import counted

MARKS = {
    Verdict.OK: ("✓", "green"),
    Verdict.WARNING: ("!", "yellow"),
    Verdict.FAILED: ("✗", "red"),
    Verdict.SKIPPED: ("·", "dim"),
}
NAME_WIDTH = 16


def doctor(days: int, send_test_event: bool) -> None:
    """Check settings, keys, rate limits, destinations and storage."""
    console = Console(highlight=False)
    findings: list[Finding] = []
    with console.status("") as status, closing(Lines(partial(echo, err=True))) as lines:
        tell = status.update if console.is_terminal else lines.wait
        it = Installation(clock=SystemClock(), days=days, on_wait=tell, test_event=send_test_event)
        checkup = Checkup(it, pools)
        with closing(it), report_pauses_to(tell):
            for check in checkup.checks():
                status.update(f"{check.name} …")
                findings.append(checkup.run(check))
                _show(findings[-1], console)
    _sum_up(findings, console)
    sys.exit(exit_status(findings))


def pools(_: Installation) -> CheckResult:
    """Check the slots of Dagster's pools. Does not create a Dagster instance."""
    home = Path(os.environ.get("DAGSTER_HOME") or ".dagster").expanduser().absolute()
    config = home / "dagster.yaml"
    if not config.exists() or not ((home / "history").exists() or "storage:" in config.read_text()):
        return ok("Dagster has no instance yet; the first run creates it.")
    # Here, because Dagster takes seconds to import.
    from bk_pipeline.defs.lost_runs import check_pools  # noqa: PLC0415

    return check_pools(home)


def _show(found: Finding, console: Console) -> None:
    """Print a finding: one line, or on a terminal wrapped in columns."""
    mark, colour = MARKS[found.verdict]
    message = Text(found.message, style="dim" if found.verdict is Verdict.SKIPPED else "")
    if not console.is_terminal:
        console.print(f"{mark} {found.check}: {found.message}", markup=False, soft_wrap=True)
        return
    line = Table.grid(padding=(0, 1))
    line.add_column(width=1)
    line.add_column(width=max(NAME_WIDTH, len(found.check)))
    line.add_column(overflow="fold")
    line.add_row(Text(mark, colour), Text(found.check), message)
    console.print(line)


def _sum_up(findings: list[Finding], console: Console) -> None:
    failed = sum(one.verdict is Verdict.FAILED for one in findings)
    console.print()
    if failed:
        console.print(
            f"{counted(failed, 'check')} failed. Fix them from the top, then run bk-pipeline doctor again."
            if failed > 1
            else "1 check failed. Fix it, then run bk-pipeline doctor again."
        )
    else:
        console.print("Ready: run make dev, or bk-pipeline backfill --from DAY --to DAY.")
