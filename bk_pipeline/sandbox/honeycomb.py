"""The Honeycomb side: batches, single events, markers, and what a key may do.

All keys lead to one environment, so a dataset is the same for all of them.
A guess, for want of documentation: a key that may not send events gets a 401.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bk_pipeline.sandbox.bodies import (
    MAX_EVENT_BYTES,
    TOO_LARGE,
    Refusal,
    batch_elements,
    event_element,
    json_reply,
    plain_body,
)
from bk_pipeline.sandbox.credentials import HoneycombKey, KeyKind, key_value
from bk_pipeline.sandbox.datasets import MAX_NAME, Dataset, EventStore, Remark, StoredEvent, slug_of
from bk_pipeline.sandbox.faults import Faults
from bk_pipeline.sandbox.limits import CallLimit
from bk_pipeline.sandbox.markers import RATE_LIMITED, MarkerSide


class HoneycombSide:
    """Takes events in as Honeycomb's ingest API would.

    Args:
        faults: Asked for trouble that concerns single events of a batch.
        clock: Seconds since 1970: the time of receipt.
        keep_events: False: only count them.
        limits: Whether the limit of calls is enforced that manage things.
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
        # Honeycomb has such a limit and does not publish it.
        self.max_dataset_columns = 10_000
        self._faults = faults
        self._clock = clock
        self._keys: dict[str, HoneycombKey] = {}
        self._datasets: dict[str, Dataset] = {}
        self._lock = Lock()
        self.call_limit = CallLimit(clock, enforced=limits)
        self.markers = MarkerSide(
            self._key, lambda slug: slug in self._datasets, clock, self.call_limit
        )

    @property
    def events(self) -> list[StoredEvent]:
        return self.store.events

    @property
    def warnings(self) -> list[Remark]:
        return self.store.remarks

    @property
    def event_count(self) -> int:
        return self.store.event_count

    @property
    def duplicate_count(self) -> int:
        return self.store.duplicate_count

    def arrived(self, _method: str, _path: str, _query: str) -> None:
        with self._lock:
            self.request_count += 1

    def reset(self) -> None:
        """Forgets events, markers, datasets and counts; keys stay."""
        with self._lock:
            self.store.clear()
            self._datasets = {}
            self.request_count = 0
        self.markers.reset()
        self.call_limit.reset()

    def add_key(
        self,
        kind: KeyKind = "ingest",
        *,
        create_datasets: bool = True,
        events: bool = True,
        markers: bool = True,
    ) -> str:
        """A new key.

        `events` and `markers` mean nothing for ingest keys, which may always send and never mark.
        """
        value = key_value(kind, len(self._keys) + 1)
        self._keys[value] = HoneycombKey(value, kind, create_datasets, events, markers)
        return value

    def routes(self) -> list[Route]:
        return [
            Route("/1/auth", self._auth),
            Route("/1/batch/{dataset}", self._batch, methods=["POST"]),
            Route("/1/events/{dataset}", self._event, methods=["POST"]),
            *self.markers.routes(),
        ]

    def _auth(self, request: Request) -> Response:
        headers, one_too_many = self.call_limit.spend()
        if one_too_many:
            return json_reply(request, {"error": RATE_LIMITED}, 429, headers)
        try:
            return json_reply(request, self._key(request).payload(), headers=headers)
        except Refusal as refusal:
            return _refused(request, refusal)

    async def _batch(self, request: Request) -> Response:
        body = await request.body()
        try:
            return json_reply(request, self._take_batch(request, body))
        except Refusal as refusal:
            return _refused(request, refusal)

    async def _event(self, request: Request) -> Response:
        """One event as the bare body, its time and rate in headers. Success has an empty body."""
        body = await request.body()
        try:
            self._take_event(request, body)
        except Refusal as refusal:
            return _refused(request, refusal)
        return Response()

    def _take_batch(self, request: Request, body: bytes) -> list[dict[str, Any]]:
        """The answer, one element for each event of the batch."""
        with self._lock:
            dataset = self._dataset(request)
            elements = batch_elements(plain_body(body, _encoding(request)))
            if request.headers.get("content-type", "").partition(";")[0] != "application/json":
                self.store.remark(Remark(dataset.name, "", "Content-Type is not application/json"))
            read = dataset.read(elements, self._now_ns(), self.max_dataset_columns)
            names = [item.name if isinstance(item, StoredEvent) else None for item in read]
            fault = self._faults.take_for_events("honeycomb", request.url.path, names)
            refused = fault.refused_events(names) if fault else {}
            answer = [
                refused[index] if index in refused else self._settle(dataset, item)
                for index, item in enumerate(read)
            ]
            return answer[: len(answer) - fault.left_out] if fault else answer

    def _take_event(self, request: Request, body: bytes) -> None:
        with self._lock:
            dataset = self._dataset(request)
            if len(body) > MAX_EVENT_BYTES:
                raise Refusal(400, TOO_LARGE)
            element = event_element(
                plain_body(body, _encoding(request)),
                request.headers.get("x-honeycomb-event-time"),
                request.headers.get("x-honeycomb-samplerate"),
            )
            (item,) = dataset.read([element], self._now_ns(), self.max_dataset_columns)
            answer = self._settle(dataset, item)
            if "error" in answer:
                raise Refusal(400, answer["error"])

    def _settle(self, dataset: Dataset, item: StoredEvent | str) -> dict[str, Any]:
        """The answer to one event: stored, or (`item` is the reason) refused."""
        if isinstance(item, str):
            return {"status": 400, "error": item}
        self._datasets.setdefault(dataset.slug, dataset)
        for remark in dataset.remarks_on(item):
            self.store.remark(remark)
        self.store.add(item)
        return {"status": 202}

    def _key(self, request: Request) -> HoneycombKey:
        key = self._keys.get(request.headers.get("x-honeycomb-team", ""))
        if key is None:
            raise Refusal(401, "unknown API key - check your credentials")
        return key

    def _dataset(self, request: Request) -> Dataset:
        """The dataset that the URL names; a new one comes into being with its first event.

        Raises:
            Refusal: The key is unknown or may not do this, or the name is none.
        """
        key = self._key(request)
        if not key.may_send:
            raise Refusal(401, "unknown API key - check your credentials")
        name = request.path_params["dataset"].strip() or "unknown_dataset"
        if len(name) > MAX_NAME:
            raise Refusal(400, "dataset name is too long")
        known = self._datasets.get(slug_of(name))
        if known is None and not key.create_datasets:
            raise Refusal(404, "dataset not found")
        return known or Dataset(name)

    def _now_ns(self) -> int:
        return int(self._clock() * 1_000_000_000)


def _encoding(request: Request) -> str:
    return request.headers.get("content-encoding", "").strip().lower()


def _refused(request: Request, refusal: Refusal) -> Response:
    return json_reply(request, {"error": refusal.message}, refusal.status)
