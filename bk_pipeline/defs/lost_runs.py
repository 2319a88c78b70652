"""Lost runs, whose process was killed with `dagster dev` or `bk-pipeline backfill`, or by a reboot.

Dagster's default launcher does not notice, and shows them as started until their longest
runtime is over; meanwhile they count as running, hold slots of pools, and keep their days from
the sensor. So the process of each run holds a lock on a file of the run, which the operating
system releases however the process ends. A file that can be locked belongs to a lost run: on
this host, in another container that shares the folder, or after a restart. Where a host keeps
the folder to itself, others know nothing of its runs and leave them alone. Only runs of this
package have such files, so a project's other runs are never ended.

A killed step also keeps its slots of pools. Dagster frees those of ended runs only where its
daemon runs with `free_slots_after_run_end_seconds`, and the command line has no daemon.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import dagster as dg

from bk_pipeline.defs.home import CONFIG, shortcomings
from bk_pipeline.doctor.findings import CheckResult, ok, warning
from bk_pipeline.private_files import file_mode, make_folder

# For people: which process executes a run.
PROCESS_TAG = "bk_pipeline/process"
FOLDER = "bk_pipeline_runs"
RUNS_SHOWN = 5
POLL_EVERY_S = 5.0

_held: dict[Path, int] = {}


def hold(instance: dg.DagsterInstance, run_id: str) -> dict[str, str]:
    """Mark `run_id` as executed by this process until the process ends; return the run's tags.

    Safe to call again. Where files cannot be locked, the run is never considered lost.
    """
    path = Path(instance.root_directory) / FOLDER / run_id
    tags = {PROCESS_TAG: f"{os.getpid()} on {socket.gethostname()}"}
    if path in _held:
        return tags
    with suppress(OSError):
        make_folder(path.parent)
        _held[path] = _locked(path)
    if instance.has_run(run_id):
        instance.add_run_tags(run_id, tags)
    return tags


@contextmanager
def held(instance: dg.DagsterInstance, run_id: str) -> Iterator[dict[str, str]]:
    """Mark `run_id` as executed by this process inside the block; see `hold`."""
    try:
        yield hold(instance, run_id)
    finally:
        _release(Path(instance.root_directory) / FOLDER / run_id)


def end_lost_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs whose process is gone as failed, and free the slots of ended runs.

    Returns:
        A message for each lost run, and for each pool that had such slots.
    """
    messages = []
    for path in _files(instance):
        with _taken_over(path) as lost:
            if not lost:
                continue
            run = instance.get_run_by_id(path.name)
            if run is not None and not run.is_finished:
                process = run.tags.get(PROCESS_TAG, "unknown")
                instance.report_run_failed(
                    run, f"Process {process}, which executed this run, was killed or crashed."
                )
                messages.append(
                    f"Run {run.run_id[:8]} was lost with its process, and is marked as failed."
                )
            path.unlink(missing_ok=True)
    return messages + free_slots_of_ended_runs(instance)


def lost_run_ids(instance: dg.DagsterInstance) -> set[str]:
    """Return the lost runs that are not marked as failed yet. Changes nothing."""
    found = set()
    for path in _files(instance):
        with _taken_over(path) as lost:
            if lost:
                found.add(path.name)
    return found


def leaked_slots(instance: dg.DagsterInstance) -> dict[str, set[str]]:
    """Return the pools with slots of runs that ended, were deleted or lost, with the runs' ids."""
    storage = instance.event_log_storage
    if not storage.supports_global_concurrency_limits:
        return {}
    found, gone = {}, lost_run_ids(instance)
    for pool in sorted(storage.get_concurrency_keys()):
        info = storage.get_concurrency_info(pool)
        run_ids = {one.run_id for one in info.claimed_slots}
        run_ids |= {one.run_id for one in info.pending_steps}
        ended = {one for one in run_ids if one in gone or _has_ended(instance, one)}
        if ended:
            found[pool] = ended
    return found


def free_slots_of_ended_runs(instance: dg.DagsterInstance) -> list[str]:
    """Free the slots that `leaked_slots` finds; return a message for each pool."""
    found = leaked_slots(instance)
    for run_id in set().union(*found.values()):
        instance.event_log_storage.free_concurrency_slots_for_run(run_id)
    return [
        f"Pool {pool}: freed the slots of runs that have ended: {shown(run_ids)}."
        for pool, run_ids in found.items()
    ]


@contextmanager
def slot_waits_reported(
    instance: dg.DagsterInstance, run_id: str, report: Callable[[str], None]
) -> Iterator[None]:
    """Call `report` every few seconds while `run_id` waits for a slot inside the block.

    Frees the slots of lost and ended runs meanwhile.
    """
    over = Event()

    def watch() -> None:
        while not over.wait(POLL_EVERY_S):
            with suppress(Exception):  # the run itself meets whatever is wrong with the database
                waits = _waits_of(instance, run_id)
                for message in waits:
                    report(message)
                if waits:
                    end_lost_runs(instance)

    watcher = Thread(target=watch, name="bk-pools", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def check_pools(home: Path) -> CheckResult:
    """Check that the instance in `home` has its limits, and that no ended run holds a slot.

    Raises:
        PipelineError: Its configuration cannot be read.
    """
    lacks = shortcomings(home)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        leaked = leaked_slots(instance)
    messages = [
        f"pool {pool} has slots of runs that have ended: {shown(run_ids)}. The next bk-pipeline "
        "backfill frees them, and so does make dev."
        for pool, run_ids in leaked.items()
    ]
    if lacks:
        messages.append(
            f"{home / CONFIG} has {'; '.join(lacks)}. docs/operating.md says what to add."
        )
    return (
        warning(" ".join(messages)) if messages else ok("no slot is held by a run that has ended.")
    )


def shown(run_ids: set[str]) -> str:
    """Return the first few of the ids, shortened."""
    first = [run_id[:8] for run_id in sorted(run_ids)[:RUNS_SHOWN]]
    more = f" and {len(run_ids) - RUNS_SHOWN} more" if len(run_ids) > RUNS_SHOWN else ""
    return ", ".join(first) + more


def _waits_of(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    storage = instance.event_log_storage
    if not storage.supports_global_concurrency_limits:
        return []
    waits = []
    for pool in storage.get_concurrency_keys():
        info = storage.get_concurrency_info(pool)
        if run_id in info.pending_run_ids:
            holders = {one.run_id for one in info.claimed_slots}
            waits.append(
                f"Waiting for a slot of Dagster's pool {pool}: {_taken(info.slot_count, holders)}. "
                "If one of these has died, mark it as failed in the Dagster UI."
            )
    return waits


def _taken(slots: int, run_ids: set[str]) -> str:
    if not run_ids:
        return f"its limit is {slots}"
    taken = "its slot is" if slots == 1 else f"its {slots} slots are"
    return f"{taken} taken by run{'' if len(run_ids) == 1 else 's'} {shown(run_ids)}"


def _has_ended(instance: dg.DagsterInstance, run_id: str) -> bool:
    run = instance.get_run_by_id(run_id)
    return run is None or run.is_finished


def _files(instance: dg.DagsterInstance) -> list[Path]:
    folder = Path(instance.root_directory) / FOLDER
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _locked(path: Path) -> int:
    """A descriptor that holds the file's lock. Other processes of the run may hold it too."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, file_mode())
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            # Another process may have deleted the file since it was opened.
            if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)


@contextmanager
def _taken_over(path: Path) -> Iterator[bool]:
    """Whether no process holds the file; inside, none can come to hold it."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _release(path: Path) -> None:
    descriptor = _held.pop(path, None)
    if descriptor is not None:
        path.unlink(missing_ok=True)
        os.close(descriptor)


@atexit.register
def _release_all() -> None:
    """Release all files: a process that ends by itself has reported how its run ended."""
    for path in list(_held):
        with suppress(OSError):
            _release(path)
