"""Honeycomb's ingest API (batches, single events), the auth endpoint, and the management API.

All keys belong to one environment, so they share its datasets. A guess,
because it is not documented: a key without the permission to send events gets
a 401.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from threading import Lock
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bk_pipeline.sandbox.bodies import (
    MAX_EVENT_BYTES,
    TOO_LARGE,
    ApiError,
    batch_elements,
    decompressed_body,
    event_element,
    json_response,
)
from bk_pipeline.sandbox.credentials import MANAGEMENT, HoneycombKey, KeyKind, key_value
from bk_pipeline.sandbox.datasets import (
    MAX_NAME,
    Dataset,
    EventStore,
    IngestWarning,
    StoredEvent,
    dataset_slug,
)
from bk_pipeline.sandbox.faults import Faults
from bk_pipeline.sandbox.limits import CallLimit
from bk_pipeline.sandbox.management import ManagementService
from bk_pipeline.sandbox.markers import RATE_LIMITED, MarkerService


class HoneycombService:
    """Receives events in the way of Honeycomb's ingest API.

    Args:
        faults: The pending faults; those of single events are carried out here.
        clock: Seconds since 1970, used as the time of receipt.
        keep_events: If False, events are counted but not stored.
        limits: Whether the rate limit of management calls is enforced.
    """

    def __init__(
        self,
        faults: Faults,
        clock: Callable[[], float],
        *,
        keep_events: bool,
        limits: bool = False,
    ) -> None:
        self.store = EventStore(keep_events=keep_events)
        self.request_count = 0
        # Honeycomb's limit is not published.
        self.max_dataset_columns = 10_000
        self._faults = faults
        self._clock = clock
        self._keys: dict[str, HoneycombKey] = {}
        self._datasets: dict[str, Dataset] = {}
        self._lock = Lock()
        self.call_limit = CallLimit(clock, enforced=limits)
        self.markers = MarkerService(
            self._require_key, lambda slug: slug in self._datasets, clock, self.call_limit
        )
        self.management = ManagementService(
            self._require_key, lambda: self._datasets, clock, self.call_limit
        )

    @property
    def events(self) -> list[StoredEvent]:
        """The stored events in order of arrival."""
        return self.store.events

    @property
    def warnings(self) -> list[IngestWarning]:
        """The first warnings about stored events; see `IngestWarning`."""
        return self.store.warnings

    @property
    def event_count(self) -> int:
        """How many events were accepted, stored or not."""
        return self.store.event_count

    @property
    def duplicate_count(self) -> int:
        """How many of the accepted events were duplicates; see `EventStore`."""
        return self.store.duplicate_count

    def record_request(self, _method: str, _path: str, _query: str) -> None:
        """Count a request."""
        with self._lock:
            self.request_count += 1

    def reset(self) -> None:
        """Forget events, markers, datasets and counts. Keys stay."""
        with self._lock:
            self.store.clear()
            self._datasets = {}
            self.request_count = 0
        self.markers.reset()
        self.management.reset()
        self.call_limit.reset()

    def add_key(
        self,
        kind: KeyKind = "ingest",
        *,
        create_datasets: bool = True,
        events: bool = True,
        markers: bool = True,
        management: Collection[str] = MANAGEMENT,
    ) -> str:
        """Create a key.

        Args:
            kind: The kind of key.
            create_datasets: Whether it can create datasets.
            events: Whether it can send events; ingest keys always can.
            markers: Whether it can manage markers; ingest keys never can.
            management: What else a configuration key can manage, of `MANAGEMENT`.

        Raises:
            ValueError: There is no such kind.
        """
        value = key_value(kind, len(self._keys) + 1)
        self._keys[value] = HoneycombKey(
            value, kind, create_datasets, events, markers, frozenset(management)
        )
        return value

    def routes(self) -> list[Route]:
        """The routes under `/1/`."""
        return [
            Route("/1/auth", self._auth),
            Route("/1/batch/{dataset}", self._batch, methods=["POST"]),
            Route("/1/events/{dataset}", self._event, methods=["POST"]),
            *self.markers.routes(),
            *self.management.routes(),
        ]

    def _auth(self, request: Request) -> Response:
        headers, exceeded = self.call_limit.count_call()
        if exceeded:
            return json_response(request, {"error": RATE_LIMITED}, 429, headers)
        try:
            return json_response(request, self._require_key(request).payload(), headers=headers)
        except ApiError as error:
            return _error_response(request, error)

    async def _batch(self, request: Request) -> Response:
        body = await request.body()
        try:
            return json_response(request, self._store_batch(request, body))
        except ApiError as error:
            return _error_response(request, error)

    async def _event(self, request: Request) -> Response:
        """Store one event: data in the body, time and rate in headers. Success has no body."""
        body = await request.body()
        try:
            self._store_event(request, body)
        except ApiError as error:
            return _error_response(request, error)
        return Response()

    def _store_batch(self, request: Request, body: bytes) -> list[dict[str, Any]]:
        """Store the events of a batch. Returns the result of each in order."""
        with self._lock:
            dataset = self._dataset(request)
            elements = batch_elements(decompressed_body(body, _encoding(request)))
            if request.headers.get("content-type", "").partition(";")[0] != "application/json":
                self.store.add_warning(
                    IngestWarning(dataset.name, "", "Content-Type is not application/json")
                )
            parsed = dataset.parse(elements, self._now_ns(), self.max_dataset_columns)
            names = [item.name if isinstance(item, StoredEvent) else None for item in parsed]
            fault = self._faults.take_for_events("honeycomb", request.url.path, names)
            errors = fault.event_errors(names) if fault else {}
            result = [
                errors[index] if index in errors else self._store_or_reject(dataset, item)
                for index, item in enumerate(parsed)
            ]
            return result[: len(result) - fault.missing_count] if fault else result

    def _store_event(self, request: Request, body: bytes) -> None:
        with self._lock:
            dataset = self._dataset(request)
            if len(body) > MAX_EVENT_BYTES:
                raise ApiError(400, TOO_LARGE)
            element = event_element(
                decompressed_body(body, _encoding(request)),
                request.headers.get("x-honeycomb-event-time"),
                request.headers.get("x-honeycomb-samplerate"),
            )
            (item,) = dataset.parse([element], self._now_ns(), self.max_dataset_columns)
            result = self._store_or_reject(dataset, item)
            if "error" in result:
                raise ApiError(400, result["error"])

    def _store_or_reject(self, dataset: Dataset, item: StoredEvent | str) -> dict[str, Any]:
        """The result of one event: stored, or rejected if `item` is an error message."""
        if isinstance(item, str):
            return {"status": 400, "error": item}
        self._datasets.setdefault(dataset.slug, dataset)
        for warning in dataset.warnings_for(item):
            self.store.add_warning(warning)
        self.store.add(item)
        return {"status": 202}

    def _require_key(self, request: Request) -> HoneycombKey:
        key = self._keys.get(request.headers.get("x-honeycomb-team", ""))
        if key is None:
            raise ApiError(401, "unknown API key - check your credentials")
        return key

    def _dataset(self, request: Request) -> Dataset:
        """The dataset in the URL. A new one is created with its first event.

        Raises:
            ApiError: The key is unknown or lacks a permission, or the name is too long.
        """
        key = self._require_key(request)
        if not key.can_send_events:
            raise ApiError(401, "unknown API key - check your credentials")
        name = request.path_params["dataset"].strip() or "unknown_dataset"
        if len(name) > MAX_NAME:
            raise ApiError(400, "dataset name is too long")
        known = self._datasets.get(dataset_slug(name))
        if known is None and not key.create_datasets:
            raise ApiError(404, "dataset not found")
        return known or Dataset(name)

    def _now_ns(self) -> int:
        return int(self._clock() * 1_000_000_000)


def _encoding(request: Request) -> str:
    return request.headers.get("content-encoding", "").strip().lower()


def _error_response(request: Request, error: ApiError) -> Response:
    return json_response(request, {"error": error.message}, error.status)
