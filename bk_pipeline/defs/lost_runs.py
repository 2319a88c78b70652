"""Runs whose process is gone: killed with `dagster dev` or `bk-pipeline backfill`, or by a reboot.

Dagster's default launcher does not notice and shows them as started until their longest
runtime is over; meanwhile they take places in the queue, and keep their days from the
sensor. So each run carries a mark of its process, and who starts work ends those whose
process is gone. A mark of another host or container tells nothing, and is left alone.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import dagster as dg
import msgspec

PROCESS_TAG = "bk_pipeline/process"
PROC = Path("/proc")
STARTED_AT = 19  # of the fields behind the command's name in /proc/<pid>/stat


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """The process of a run, told apart from others that have or had its number.

    Attributes:
        run: The run's id: whoever executes it anew copies its tags.
        place: Host and PID namespace: where the number means something.
        boot: Which start of the machine; empty where nothing tells.
        pid: Its number.
        started: When it began, in the kernel's ticks since boot; empty where nothing tells.
    """

    run: str
    place: str
    boot: str
    pid: int
    started: str

    @classmethod
    def of(cls, run: str, pid: int) -> Mark:
        return cls(run, _place(), _boot(), pid, _started(pid))

    @property
    def is_gone(self) -> bool:
        """Whether the process has certainly ended."""
        if self.place != _place():
            return False
        return self.boot != _boot() or not _exists(self.pid) or self.started != _started(self.pid)


def process_tag(run_id: str) -> dict[str, str]:
    """The tag of a run that this process executes."""
    return {PROCESS_TAG: msgspec.json.encode(Mark.of(run_id, os.getpid())).decode()}


def end_lost_runs(instance: dg.DagsterInstance) -> list[str]:
    """Marks runs whose process is gone as failed; a sentence for each."""
    under_way = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING])
    said = []
    for run in instance.get_runs(under_way):
        mark = _mark_of(run)
        if mark is None or not mark.is_gone:
            continue
        instance.report_run_failed(
            run, f"Process {mark.pid}, which executed this run, is gone: it was killed, or crashed."
        )
        if instance.event_log_storage.supports_global_concurrency_limits:
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        said.append(f"Run {run.run_id[:8]} was lost with its process, and is marked as failed.")
    return said


def _mark_of(run: dg.DagsterRun) -> Mark | None:
    try:
        mark = msgspec.json.decode(run.tags.get(PROCESS_TAG, ""), type=Mark)
    except msgspec.DecodeError:
        return None
    return mark if mark.run == run.run_id else None


def _place() -> str:
    try:
        return f"{socket.gethostname()} {(PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _boot() -> str:
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _started(pid: int) -> str:
    try:
        _, _, fields = (PROC / str(pid) / "stat").read_text().rpartition(")")
        return fields.split()[STARTED_AT]
    except OSError:
        return ""


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
