"""Client for what is inside jobs: logs, artifacts, and Test Engine's results.

All of it is optional, needs scopes of its own, and can wait: requests go by a quota in the
background, and bytes count against a day's budget. The API's token goes to the API only. Artifacts
are stored elsewhere, at an address that is signed; it is requested without credentials.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Self
from urllib.parse import quote

from bk_pipeline.buildkite.answers import Subject
from bk_pipeline.buildkite.api import Api
from bk_pipeline.buildkite.artifact_stores import Address, ArtifactStores, store_url
from bk_pipeline.buildkite.budget import ByteBudget
from bk_pipeline.buildkite.detail_records import (
    Artifact,
    JobRef,
    LogTail,
    decoded,
    read_artifact,
)
from bk_pipeline.buildkite.header_times import read_header_times
from bk_pipeline.buildkite.paging import Paging, iter_raw_pages
from bk_pipeline.buildkite.streams import (
    PARTIAL_CONTENT,
    OpenBody,
    ResumingBody,
    content_range,
    plain_length,
)
from bk_pipeline.clock import Clock
from bk_pipeline.errors import (
    AnswerTooLarge,
    Gone,
    RequestRefused,
    ServiceUnavailable,
    UnexpectedAnswer,
)
from bk_pipeline.http.answers import json_object
from bk_pipeline.http.network import Network, Timeouts
from bk_pipeline.http.session import REDIRECTS, Streamed

LOGS_SCOPE, ARTIFACTS_SCOPE, TESTS_SCOPE = "read_build_logs", "read_artifacts", "read_suites"
PER_PAGE = "100"
# The largest log and the largest artifact that Buildkite keeps.
MAX_LOG_BYTES = 1024**3
MAX_ARTIFACT_BYTES = 10 * 1024**3
TAIL_BYTES = 256 * 1024
PLAIN = {"Accept": "text/plain"}
# Of a size or a range, the stored bytes are meant, not compressed ones.
STORED = {**PLAIN, "Accept-Encoding": "identity"}
RANGE_REFUSED = frozenset({400, 416})
NOT_SATISFIABLE = 416
FINISHED = "finished"


class DetailsClient:
    """Reads logs, artifacts and test results of one organization. Thread-safe.

    Every method may wait for the quota or before a retry. Those that read bodies may raise
    BudgetSpent before they request anything.

    Args:
        api: Makes the requests to Buildkite.
        organization: Slug of the organization.
        network: Proxies and CA bundle, for the stores of artifacts.
        timeouts: Of the requests to those.
        clock: Used for measuring.
        paging: What is known about the service's paging.
        budget: The bytes that may be read; None: any number.
    """

    def __init__(
        self,
        api: Api,
        organization: str,
        *,
        network: Network | None,
        timeouts: Timeouts,
        clock: Clock,
        paging: Paging,
        budget: ByteBudget | None = None,
    ) -> None:
        self.organization = organization
        self._api = api
        self._paging = paging
        self._budget = budget
        self._stores = ArtifactStores(network=network, timeouts=timeouts, clock=clock)

    def log_size(self, job: JobRef) -> int | None:
        """The size of a job's log in bytes; None if the answer does not tell. One request.

        Raises:
            Gone: There is no log: it was deleted, or its build is kept no longer.
            AccessDenied: The token lacks the scope `read_build_logs`.
        """
        return self._api.get(
            f"{self._job_path(job)}/log",
            lambda response: plain_length(response.headers),
            method="HEAD",
            headers=STORED,
            subject=self._log_subject(job),
        )

    @contextmanager
    def log(self, job: JobRef, *, max_bytes: int = MAX_LOG_BYTES) -> Iterator[Iterator[bytes]]:
        """The pieces of a job's log, as stored, read within the block.

        If the log breaks off, the rest is requested again, up to `streams.MAX_CUTS` times.

        Args:
            job: Which job.
            max_bytes: Limit of the log's size.

        Raises:
            Gone: There is no log.
            AccessDenied: The token lacks the scope `read_build_logs`.
            AnswerTooLarge: The log exceeds `max_bytes`; raised when that is reached.
            BudgetSpent: No bytes are left today.
        """
        known: list[int | None] = []  # the log's size, once a response has shown it
        name = f"The log of job {job.job_id}"
        with self._body(partial(self._open_log, job, known), name, max_bytes) as pieces:
            yield pieces

    def log_tail(self, job: JobRef, count: int = TAIL_BYTES) -> LogTail:
        """The last `count` bytes of a job's log; all of it if it is shorter. One request.

        Through a gateway that drops the `Range` header, the whole log is read and its end kept.

        Raises:
            ValueError: `count` is not positive.
            Gone: There is no log.
            AccessDenied: The token lacks the scope `read_build_logs`.
            BudgetSpent: No bytes are left today.
        """
        if count < 1:
            raise ValueError(f"A tail has at least one byte, not {count}.")
        with self._counted():
            return self._api.retry(partial(self._read_tail, job, count))

    def header_times(self, job: JobRef) -> list[int]:
        """The times of a log's section headers, in nanoseconds since 1970. One request.

        Buildkite sends them together with the text, so this transfers as much as `log`; it is for
        logs without times in the text. There may be more or fewer than headers.

        Raises:
            Gone: There is no log.
            AccessDenied: The token lacks the scope `read_build_logs`.
            UnexpectedAnswer: The answer is not what Buildkite documents.
            BudgetSpent: No bytes are left today.
        """
        with self._counted():
            return self._api.retry(partial(self._read_header_times, job))

    def artifacts(
        self, pipeline: str, number: int, *, job_id: str | None = None
    ) -> Iterator[Artifact]:
        """The artifacts of a build, or of one of its jobs, in pages of 100 that are read lazily.

        Elements without id, job and path are left out.

        Raises:
            Gone: There is no such build or job.
            AccessDenied: The token lacks the scope `read_artifacts`.
        """
        build = f"{self._organization_path()}/pipelines/{_quoted(pipeline)}/builds/{number}"
        path = f"{build}/jobs/{_quoted(job_id)}/artifacts" if job_id else f"{build}/artifacts"
        part = f"the artifacts of job {job_id}" if job_id else "the artifacts"
        subject = Subject(
            self.organization, pipeline, scope=ARTIFACTS_SCOPE, number=number, part=part
        )
        for element in self._elements(path, subject):
            artifact = read_artifact(element, pipeline, number)
            if artifact is not None:
                yield artifact

    @contextmanager
    def download(
        self, artifact: Artifact, *, max_bytes: int = MAX_ARTIFACT_BYTES
    ) -> Iterator[Iterator[bytes]]:
        """The pieces of an artifact, as uploaded, read within the block.

        Takes one request to Buildkite, for the artifact's address, and one to its store, which does
        not get the token. If the file breaks off, the rest is requested again.

        Args:
            artifact: From `artifacts`.
            max_bytes: Limit of its size.

        Raises:
            Gone: It was not uploaded completely, was deleted, or is kept no longer.
            AccessDenied: The token lacks the scope `read_artifacts`, or the store refuses it.
            AnswerTooLarge: It exceeds `max_bytes`; no request if the listing said so.
            UnexpectedAnswer: The address is not one of HTTP, or not encrypted as the API is.
            BudgetSpent: No bytes are left today.
        """
        subject = self._artifact_subject(artifact)
        if artifact.state != FINISHED:
            raise Gone(f"Buildkite does not have {subject}: its state is {artifact.state!r}.")
        name = f"The artifact {artifact.id} of job {artifact.job.job_id}"
        if artifact.size is not None and artifact.size > max_bytes:
            raise AnswerTooLarge(f"{name} has {artifact.size:,} bytes, more than {max_bytes:,}.")
        address = Address(partial(self._find, artifact), str(subject))
        with self._body(partial(self._stores.open, address), name, max_bytes) as pieces:
            yield pieces

    def tests(self, build_id: str, *, job_id: str | None = None) -> Iterator[dict[str, Any]]:
        """Test Engine's results of a build: an object for each test, in pages that are read lazily.

        They are aggregated over the build's executions: no single execution has a time.

        Args:
            build_id: The build's UUID.
            job_id: The UUID of the job whose executions count; None for all of the build.

        Raises:
            Gone: There is no such build, or the organization does not use Test Engine.
            AccessDenied: The token lacks the scope `read_suites`.
        """
        path = (
            f"/v2/analytics/organizations/{_quoted(self.organization)}/builds/{_quoted(build_id)}"
        )
        part = f"the tests of build {build_id}"
        subject = Subject(self.organization, scope=TESTS_SCOPE, part=part)
        params = {"tags": f"build.job_id:{job_id}"} if job_id else {}
        for element in self._elements(f"{path}/tests", subject, **params):
            found = decoded(element, dict[str, Any])
            if found is not None:
                yield found

    def close(self) -> None:
        """Close the connections to the stores of artifacts; those to the API stay."""
        self._stores.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        if self._budget is None:
            yield
            return
        self._budget.check()
        try:
            yield
        finally:
            self._budget.flush()

    def _spend(self, count: int) -> None:
        if self._budget is not None:
            self._budget.spend(count)

    @contextmanager
    def _body(
        self, opener: Callable[[int], Any], name: str, max_bytes: int
    ) -> Iterator[Iterator[bytes]]:
        body = ResumingBody(
            opener, api=self._api, name=name, max_bytes=max_bytes, on_bytes=self._spend
        )
        with self._counted():
            try:
                body.open()
                yield iter(body)
            finally:
                body.close()

    @contextmanager
    def _open_log(self, job: JobRef, known: list[int | None], position: int) -> Iterator[OpenBody]:
        """Request a log from `position` on.

        The API serves only the last bytes of a log, so its size has to be known: from the first
        response, unless that was compressed or its text is not the stored one.
        """
        size = known[0] if known else None
        resumed = {**STORED, "Range": f"bytes=-{size - position}"} if position and size else {}
        path = f"{self._job_path(job)}/log"
        try:
            with self._api.stream(
                path, subject=self._log_subject(job), headers={**PLAIN, **resumed}
            ) as streamed:
                headers = streamed.response.headers
                if streamed.response.status == PARTIAL_CONTENT:
                    start, whole = content_range(headers) or (0, None)
                    if whole != size:
                        known[:] = [None]
                        raise ServiceUnavailable(
                            f"{streamed.response.request}: the log's size is {whole}, not {size}."
                        )
                    yield OpenBody(streamed.chunks, start)
                else:
                    if not known:
                        known.append(plain_length(headers))
                    yield OpenBody(streamed.chunks)
        except RequestRefused as exc:
            if not (resumed and exc.status in RANGE_REFUSED):
                raise
            known[:] = [None]
            raise ServiceUnavailable(f"The rest of the log cannot be had alone. {exc}") from exc

    def _read_tail(self, job: JobRef, count: int) -> LogTail:
        headers = {**STORED, "Range": f"bytes=-{count}"}
        try:
            with self._api.stream(
                f"{self._job_path(job)}/log", subject=self._log_subject(job), headers=headers
            ) as streamed:
                if streamed.response.status == PARTIAL_CONTENT:
                    _, size = content_range(streamed.response.headers) or (0, None)
                    return LogTail(self._last_bytes(streamed, count)[0], size)
                content, size = self._last_bytes(streamed, count)
                return LogTail(content, size)
        except RequestRefused as exc:
            if exc.status != NOT_SATISFIABLE:
                raise
            return LogTail(b"", 0)  # as documented: the log is empty

    def _last_bytes(self, streamed: Streamed, count: int) -> tuple[bytes, int]:
        """The last `count` bytes of a body, and its size."""
        kept: deque[bytes] = deque()
        held = size = 0
        for piece in streamed.chunks:
            self._spend(len(piece))
            size += len(piece)
            if size > MAX_LOG_BYTES:
                raise AnswerTooLarge(f"The log is larger than {MAX_LOG_BYTES:,} bytes.")
            kept.append(piece)
            held += len(piece)
            while held - len(kept[0]) >= count:
                held -= len(kept.popleft())
        return b"".join(kept)[-count:], size

    def _read_header_times(self, job: JobRef) -> list[int]:
        subject = self._log_subject(job)
        headers = {"Accept": "application/json"}
        with self._api.stream(
            f"{self._job_path(job)}/log", subject=subject, headers=headers
        ) as streamed:
            found = read_header_times(map(self._seen, streamed.chunks))
        if found is None:
            raise UnexpectedAnswer(
                f"{streamed.response.request}: expected a JSON object with header_times."
            )
        return found

    def _seen(self, piece: bytes) -> bytes:
        self._spend(len(piece))
        return piece

    def _find(self, artifact: Artifact) -> str:
        """Ask for the address at which an artifact's store will send it.

        Raises:
            UnexpectedAnswer: The response is not a redirect, or not to a usable address.
        """
        path = f"{self._job_path(artifact.job)}/artifacts/{_quoted(artifact.id)}/download"
        response = self._api.get(
            path,
            lambda response: response,
            subject=self._artifact_subject(artifact),
            redirects=True,
        )
        target = response.headers.get("Location") or json_object(response.body).get("url")
        if response.status not in REDIRECTS or not isinstance(target, str) or not target:
            raise UnexpectedAnswer(
                f"{response.request}: expected a redirect to the artifact, got {response.status}."
            )
        return store_url(response, target)

    def _elements(self, path: str, subject: Subject, **params: str) -> Iterator[bytes]:
        params = {"per_page": PER_PAGE, **params}
        pages = iter_raw_pages(self._api, path, params=params, subject=subject, paging=self._paging)
        for page in pages:
            yield from page.elements

    def _organization_path(self) -> str:
        return f"/v2/organizations/{_quoted(self.organization)}"

    def _job_path(self, job: JobRef) -> str:
        return (
            f"{self._organization_path()}/pipelines/{_quoted(job.pipeline)}/builds/{job.number}"
            f"/jobs/{_quoted(job.job_id)}"
        )

    def _log_subject(self, job: JobRef) -> Subject:
        part = f"the log of job {job.job_id}"
        return Subject(
            self.organization, job.pipeline, scope=LOGS_SCOPE, number=job.number, part=part
        )

    def _artifact_subject(self, artifact: Artifact) -> Subject:
        job = artifact.job
        part = f"the artifact {artifact.id} of job {job.job_id}"
        return Subject(
            self.organization, job.pipeline, scope=ARTIFACTS_SCOPE, number=job.number, part=part
        )


def _quoted(part: str) -> str:
    """A path segment. One of dots alone would lead to another path, so it is refused."""
    if not part.strip("."):
        raise UnexpectedAnswer(f"{part!r} cannot be a slug or an id: no request was made.")
    return quote(part, safe="")
