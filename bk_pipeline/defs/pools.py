"""Dagster's pools: waits for a slot, which Dagster mentions in its log only, and their state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import dagster as dg

from bk_pipeline.defs.home import CONFIG, shortcomings
from bk_pipeline.defs.lost_runs import end_lost_runs, leaked_slots, shown
from bk_pipeline.doctor.findings import Answer, fine, remark

LOOK_EVERY_S = 5.0


@contextmanager
def waits_for_slots_told(
    instance: dg.DagsterInstance, run_id: str, tell: Callable[[str], None]
) -> Iterator[None]:
    """Inside, `tell` gets a sentence every few seconds while `run_id` waits for a slot.

    The slots of lost and ended runs are freed meanwhile.
    """
    over = Event()

    def watch() -> None:
        while not over.wait(LOOK_EVERY_S):
            with suppress(Exception):  # the run itself meets whatever is wrong with the database
                waits = _waits_of(instance, run_id)
                for sentence in waits:
                    tell(sentence)
                if waits:
                    end_lost_runs(instance)

    watcher = Thread(target=watch, name="bk-pools", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def check_pools(home: Path) -> Answer:
    """Whether the instance in `home` limits what it should, and no slot is held in vain.

    Raises:
        PipelineError: Its configuration cannot be read.
    """
    lacks = shortcomings(home)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        leaked = leaked_slots(instance)
    told = [
        f"pool {pool} has slots of runs that have ended: {shown(run_ids)}. The next bk-pipeline "
        "backfill frees them, and so does make dev."
        for pool, run_ids in leaked.items()
    ]
    if lacks:
        told.append(f"{home / CONFIG} has {'; '.join(lacks)}. docs/operating.md says what to add.")
    return remark(" ".join(told)) if told else fine("no slot is held by a run that has ended.")


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
