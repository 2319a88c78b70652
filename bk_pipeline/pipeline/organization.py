"""Keep the names of the organization and its clusters, which builds do not carry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from filelock import FileLock

from bk_pipeline.buildkite.client import (
    CLUSTERS_SCOPE,
    ORGANIZATION_SCOPE,
    BuildkiteClient,
)
from bk_pipeline.clock import Clock
from bk_pipeline.errors import AccessDenied, DamagedFile, NotFound, PipelineError, QuotaSpent
from bk_pipeline.pipeline.days import Progress, no_progress
from bk_pipeline.private_files import file_mode, make_folder
from bk_pipeline.store.organizations import (
    Inquiry,
    OrganizationRecord,
    OrganizationStore,
    Outcome,
)

# The attributes that each optional scope brings.
ATTRIBUTES = {
    ORGANIZATION_SCOPE: ("buildkite.organization.id", "buildkite.organization.name"),
    CLUSTERS_SCOPE: ("buildkite.cluster.name", "buildkite.cluster.graphql_id"),
}
# How long another process may ask while this one waits for its answers.
LOCK_TIMEOUT_S = 60.0


def refresh_names(
    store: OrganizationStore,
    *,
    client: BuildkiteClient,
    clock: Clock,
    lock_path: Path,
    warn: Progress = no_progress,
) -> None:
    """Ask Buildkite for the names of the organization and its clusters, once per UTC day.

    That takes two requests, however many partitions and processes call this: they share the
    record in the store. (Hosts that begin at the same moment may each ask.) A refusal counts as
    an answer, because most tokens lack the scopes; another failure is repeated after an hour.
    Spans are complete without the names, so no failure of the requests is raised.

    Args:
        store: Where the answers are kept.
        client: The Buildkite API.
        clock: Tells the day.
        lock_path: Locked by the process that asks, so that those of a host ask once.
        warn: Called with a message if a request failed or the record was damaged.

    Raises:
        StorageError: The store cannot be read or written.
    """
    ask: dict[str, Callable[[OrganizationRecord], None]] = {
        ORGANIZATION_SCOPE: partial(_ask_for_organization, client),
        CLUSTERS_SCOPE: partial(_ask_for_clusters, client),
    }
    slug, now = client.organization, clock.now()

    def due(record: OrganizationRecord) -> list[str]:
        known = record.inquiries
        return [scope for scope in ask if scope not in known or known[scope].is_due(now)]

    if not due(_read(store, slug, warn)):
        return
    with _locked(lock_path, warn):
        record = _read(store, slug, warn)  # another process may have asked by now
        scopes = due(record)
        for scope in scopes:
            outcome = Outcome.ANSWERED
            try:
                ask[scope](record)
            except (AccessDenied, NotFound):
                outcome = Outcome.REFUSED
            except QuotaSpent:
                continue  # the next partition waits for the quota, and asks then
            except PipelineError as exc:
                outcome = Outcome.FAILED
                warn(f"Spans may lack {' and '.join(ATTRIBUTES[scope])}: {exc}")
            record.inquiries[scope] = Inquiry(now, outcome)
        if scopes:
            store.write(slug, record)


def ask_again(store: OrganizationStore, slug: str, scopes: list[str]) -> list[str]:
    """Forget that requests which need `scopes` did not succeed, so that the next run makes them.

    Returns:
        The scopes for which there was such a request.

    Raises:
        StorageError: The store cannot be read or written.
    """
    record = _read(store, slug, no_progress)
    unanswered = [
        scope
        for scope in scopes
        if scope in record.inquiries and record.inquiries[scope].outcome is not Outcome.ANSWERED
    ]
    for scope in unanswered:
        del record.inquiries[scope]
    if unanswered:
        store.write(slug, record)
    return unanswered


def _ask_for_organization(client: BuildkiteClient, record: OrganizationRecord) -> None:
    record.organization = client.organization_details()


def _ask_for_clusters(client: BuildkiteClient, record: OrganizationRecord) -> None:
    record.clusters = (record.clusters or {}) | {one.id: one for one in client.clusters()}


def _read(store: OrganizationStore, slug: str, warn: Progress) -> OrganizationRecord:
    try:
        return store.read(slug)
    except DamagedFile as exc:
        warn(str(exc))
        return OrganizationRecord()


@contextmanager
def _locked(path: Path, warn: Progress) -> Iterator[None]:
    """Hold the lock within the block, or go on without it if that takes too long."""
    lock = FileLock(path, timeout=LOCK_TIMEOUT_S, mode=file_mode())
    try:
        make_folder(path.parent)
        lock.acquire()
    except OSError as exc:  # also a timeout
        warn(f"{path} cannot be locked ({exc}): another process may make the same requests.")
    try:
        yield
    finally:
        lock.release()
