"""Buildkite's endpoints for what is inside jobs: logs, artifacts, and Test Engine's results.

Everything is made from the world when it is requested; see `logs` and `artifacts`. As documented,
HEAD tells the size of a log's stored bytes, and only the last bytes of a log can be requested
(`Range: bytes=-N` with `Accept: text/plain`).

Guesses: the wording of the errors; that `log.txt` takes ranges like `log`; that a job without a
log is not found and the log of one that has not started is empty; that artifacts that have expired
are listed and cannot be downloaded; the order of a build's artifacts.
"""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from bk_pipeline.sandbox.artifact_store import ArtifactStore
from bk_pipeline.sandbox.artifacts import Artifact, artifacts_of, test_engine_results
from bk_pipeline.sandbox.as_of import job_as_of
from bk_pipeline.sandbox.bodies import ApiError, json_response
from bk_pipeline.sandbox.listing import Entry, RecordedBuild, link_header, parse_page
from bk_pipeline.sandbox.logs import log_of
from bk_pipeline.sandbox.organization import API
from bk_pipeline.sandbox.world import World

# When every generated job is over.
_LATER_MS = 1 << 45
_SUFFIX = re.compile(r"bytes=-([1-9]\d{0,17})", re.ASCII)
_JOB_TAG = "build.job_id:"
_SORTED_BY = ("duration_avg", "duration_sum", "duration_min", "duration_max", "reliability")


class DetailsEndpoints:
    """The endpoints of one world.

    Args:
        world: The organization and its builds, with the sandbox's clock.

    Attributes:
        store: Where artifacts are downloaded from.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.store = ArtifactStore(self._content, world.clock)

    def log(self, request: Request) -> Response:
        """A job's log: as JSON, as text, the end of the text, or only its size."""
        job = self._job(request)
        log = log_of(job, self._world.now_ms())
        if log is None:
            raise ApiError(404, "No log found")
        content = log.content
        plain = request.url.path.endswith(".txt") or "text/plain" in request.headers.get(
            "accept", ""
        )
        headers = {"Accept-Ranges": "bytes"}
        if request.method == "HEAD":
            return Response(content, 200, headers, "text/plain")
        if (wanted := request.headers.get("range")) is not None:
            return _suffix(content, wanted, headers, plain=plain)
        if plain:
            return Response(content, 200, headers, "text/plain")
        body = {
            "url": f"{job['log_url']}",
            "content": content.decode(),
            "size": len(content),
            "header_times": log.header_times,
        }
        return json_response(request, body)

    def build_artifacts(self, request: Request) -> Response:
        """A page of a build's artifacts, those of its jobs one after the other."""
        found = [
            artifact.payload(_job_url(job), job["id"])
            for job in self._jobs(self._entry(request))
            for artifact in artifacts_of(job, self._world.now_ms())
        ]
        return _paged(request, found)

    def job_artifacts(self, request: Request) -> Response:
        """A page of a job's artifacts."""
        job = self._job(request)
        found = artifacts_of(job, self._world.now_ms())
        return _paged(request, [one.payload(_job_url(job), job["id"]) for one in found])

    def artifact(self, request: Request) -> Response:
        """One artifact."""
        job, artifact = self._artifact(request)
        return json_response(request, artifact.payload(_job_url(job), job["id"]))

    def download(self, request: Request) -> Response:
        """A redirect to the artifact's signed address, which is in the body as well."""
        job, artifact = self._artifact(request)
        if artifact.state != "finished":
            raise ApiError(404, "No artifact found")
        path = request.path_params
        url = self.store.address(path["slug"], path["number"], job["id"], artifact.id)
        return json_response(request, {"url": url}, 302, {"Location": url})

    def tests(self, request: Request) -> Response:
        """A page of Test Engine's results of a build, which is named by its UUID."""
        params, now_ms = request.query_params, self._world.now_ms()
        entry = self._world.build_with_id(request.path_params["build_id"], now_ms)
        if entry is None:
            raise ApiError(404, "No build found")
        key = params.get("sort_by", "duration_avg")
        if key not in _SORTED_BY:
            raise ApiError(422, f"sort_by is not one of {', '.join(_SORTED_BY)}")
        # Of the tags, the stand-in knows the job that ran a test.
        job_id = params.get("tags", "").partition(_JOB_TAG)[2].partition(",")[0] or None
        suites = f"{API}/analytics/organizations/{self._world.organization.slug}/suites"
        found = test_engine_results(self._jobs(entry, job_id), now_ms, suites)
        found.sort(key=lambda one: one[key] or 0.0, reverse=params.get("order") != "asc")
        return _paged(request, found)

    def _content(self, slug: str, number: int, job_id: str, artifact_id: str) -> bytes | None:
        """What the store sends for an artifact."""
        entry = self._world.build(slug, number, self._world.now_ms())
        for job in self._jobs(entry, job_id) if entry is not None else ():
            for artifact in artifacts_of(job, _LATER_MS):
                if artifact.id == artifact_id and artifact.state == "finished":
                    return artifact.content()
        return None

    def _entry(self, request: Request) -> Entry:
        slug, number = request.path_params["slug"], request.path_params["number"]
        entry = self._world.build(slug, number, self._world.now_ms())
        if entry is None:
            raise ApiError(404, "No build found")
        return entry

    def _jobs(self, entry: Entry, job_id: str | None = None) -> list[dict[str, Any]]:
        """The jobs that exist now, or the one with this id, as of their ends.

        What happens in a job is settled from its start; what is shown of it depends on the time.
        """
        now_ms = self._world.now_ms()
        if isinstance(entry, RecordedBuild):
            jobs: list[dict[str, Any]] = entry.payload.get("jobs", [])
            return [job for job in jobs if job_id in (None, job["id"])]
        url = f"{entry.pipeline.url}/builds/{entry.ref.number}"
        return [
            job_as_of(job, entry, _LATER_MS, url, url)
            for job in entry.jobs
            if job.created_ms <= now_ms and job_id in (None, job.id)
        ]

    def _job(self, request: Request) -> dict[str, Any]:
        found = self._jobs(self._entry(request), request.path_params["job_id"])
        if not found:
            raise ApiError(404, "No job found")
        return found[0]

    def _artifact(self, request: Request) -> tuple[dict[str, Any], Artifact]:
        job = self._job(request)
        for artifact in artifacts_of(job, self._world.now_ms()):
            if artifact.id == request.path_params["artifact_id"]:
                return job, artifact
        raise ApiError(404, "No artifact found")


def _job_url(job: dict[str, Any]) -> str:
    return str(job.get("log_url", "")).removesuffix("/log")


def _suffix(content: bytes, wanted: str, headers: dict[str, str], *, plain: bool) -> Response:
    """The last bytes of a log."""
    match = _SUFFIX.fullmatch(wanted)
    if not plain or match is None:
        raise ApiError(400, "Only suffix ranges with Accept: text/plain are supported")
    if not content:
        raise ApiError(416, "The log is empty")
    size = len(content)
    start = max(size - int(match[1]), 0)
    headers = {**headers, "Content-Range": f"bytes {start}-{size - 1}/{size}"}
    return Response(content[start:], 206, headers, "text/plain")


def _paged(request: Request, elements: list[dict[str, Any]]) -> Response:
    """The requested page of a listing."""
    params = request.query_params
    page, per_page = parse_page(params)
    start = (page - 1) * per_page
    last = -(-len(elements) // per_page)
    more = start + per_page < len(elements)
    link = link_header(request.url, params, page, last, more=more)
    return json_response(
        request, elements[start : start + per_page], 200, {"Link": link} if link else {}
    )
