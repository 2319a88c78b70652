"""Runs whose process is gone: killed with `dagster dev` or `bk-pipeline backfill`, or by a reboot.

Dagster's default launcher does not notice, and shows them as started until their longest
runtime is over; meanwhile they take places in the queue, hold slots of pools, and keep their
days from the sensor. So the process of a run holds a lock on a file of the run, which the
operating system takes back however the process ends. A file that can be locked is that of a
lost run: on this host, in another container that shares the folder, or after a restart. Where
a host keeps the folder to itself, others know nothing of its runs and leave them alone.

A killed step also keeps its slots of pools. Dagster frees those of ended runs only where its
daemon runs with `free_slots_after_run_end_seconds`, and the command line has no daemon.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from bk_pipeline.private_files import file_mode, make_folder

if TYPE_CHECKING:
    import dagster as dg

# For people: which process executes a run.
PROCESS_TAG = "bk_pipeline/process"
FOLDER = "bk_pipeline_runs"
RUNS_SHOWN = 5

_held: dict[Path, int] = {}


def hold(instance: dg.DagsterInstance, run_id: str) -> dict[str, str]:
    """Have `run_id` known as executed by this process until it ends; the tags that say so.

    Safe to call again. Does nothing where files cannot be locked: the run is then never
    taken for lost.
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
    """`hold`, as long as the block is entered."""
    try:
        yield hold(instance, run_id)
    finally:
        _release(Path(instance.root_directory) / FOLDER / run_id)


def end_lost_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs whose process is gone as failed, and free the slots of ended runs.

    Returns:
        A sentence for each run that was lost, and for each pool that had such slots.
    """
    told = []
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
                told.append(
                    f"Run {run.run_id[:8]} was lost with its process, and is marked as failed."
                )
            path.unlink(missing_ok=True)
    return told + free_slots_of_ended_runs(instance)


def lost_run_ids(instance: dg.DagsterInstance) -> set[str]:
    """The runs whose process is gone and that nobody has marked as failed. Changes nothing."""
    found = set()
    for path in _files(instance):
        with _taken_over(path) as lost:
            if lost:
                found.add(path.name)
    return found


def leaked_slots(instance: dg.DagsterInstance) -> dict[str, set[str]]:
    """Pools that have slots of runs that have ended, were deleted or lost, with these runs' ids."""
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
    """Free what `leaked_slots` finds; a sentence for each pool."""
    found = leaked_slots(instance)
    for run_id in set().union(*found.values()):
        instance.event_log_storage.free_concurrency_slots_for_run(run_id)
    return [
        f"Pool {pool}: freed the slots of runs that have ended: {shown(run_ids)}."
        for pool, run_ids in found.items()
    ]


def shown(run_ids: set[str]) -> str:
    """The first few of the ids, shortened."""
    first = [run_id[:8] for run_id in sorted(run_ids)[:RUNS_SHOWN]]
    more = f" and {len(run_ids) - RUNS_SHOWN} more" if len(run_ids) > RUNS_SHOWN else ""
    return ", ".join(first) + more


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
            # Somebody may have deleted the file since it was opened.
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
    """A process that ends by itself has told Dagster how its run ended."""
    for path in list(_held):
        with suppress(OSError):
            _release(path)
