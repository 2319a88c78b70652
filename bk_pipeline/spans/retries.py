"""Which job is another attempt at what, and whether somebody asked for it.

The new attempt names the one it replaces (`retry_source`); payloads from before that field
have it the other way round only (`retried_in_job_id`). Both are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from bk_pipeline.spans.records import Job


class Retry(msgspec.Struct, frozen=True, gc=False):
    """That a job replaces the job `of`. By a person unless the payload says `automatic`:
    there were manual retries before there was a word for it.
    """

    of: str
    manual: bool


class Retries:
    """The retries among a build's jobs."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._of: dict[str, Retry] = {}
        named_by_the_old: list[tuple[str, Retry]] = []
        for job in jobs:
            source = job.retry_source
            if source and source.job_id and source.job_id != job.id:
                self._of[job.id] = Retry(source.job_id, source.retry_type != "automatic")
            successor = job.retried_in_job_id
            if successor and successor != job.id:
                named_by_the_old.append((successor, Retry(job.id, job.retry_type != "automatic")))
        for successor, retry in named_by_the_old:
            self._of.setdefault(successor, retry)
        self._origins: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._of)

    def of(self, job_id: str) -> Retry | None:
        """What the job replaces; None if it is a first attempt."""
        return self._of.get(job_id)

    def origin(self, job_id: str) -> str:
        """The id of the first attempt, which all retries go back to.

        If they go round in a circle, the least id in it.
        """
        origins, replaced = self._origins, self._of
        path: dict[str, None] = {}  # in order
        current = job_id
        while current not in origins:
            if current in path:
                circle = list(path)[list(path).index(current) :]
                origins[current] = min(circle)
                break
            path[current] = None
            if current not in replaced:
                origins[current] = current
                break
            current = replaced[current].of
        origins.update(dict.fromkeys(path, origins[current]))
        return origins[job_id]


def unreplaced(job_ids: Iterable[str], retries: Retries) -> Mapping[str, None]:
    """Those of the jobs that no other of them replaces, in their order; all if none is left."""
    ids = dict.fromkeys(job_ids)
    if not retries:
        return ids
    gone = {retry.of for retry in map(retries.of, ids) if retry}
    return {job_id: None for job_id in ids if job_id not in gone} or ids
