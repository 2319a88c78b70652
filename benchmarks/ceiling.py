"""Measures how many spans per second the sink accepts, with captured bodies and plain sockets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from urllib.parse import urlsplit

from benchmarks.sent import Sent
from benchmarks.sink import Sink

CONNECTIONS = 4
REPEATS = 3


def spans_per_s(sink: Sink, bodies: Sequence[Sent], spans: int) -> float:
    """Return the rate for `bodies`, which hold `spans` spans in total; the sink discards them."""
    shares = [bodies[at::CONNECTIONS] for at in range(CONNECTIONS)]
    best = 0.0
    for _ in range(REPEATS):
        began = time.perf_counter()
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(lambda share: _send(sink.url, share), shares))
        best = max(best, spans / (time.perf_counter() - began))
        sink.taken()
    return best


def _send(url: str, bodies: Sequence[Sent]) -> None:
    connection = HTTPConnection(urlsplit(url).netloc)
    for sent in bodies:
        headers = {"Content-Encoding": sent.encoding} if sent.encoding else {}
        connection.request("POST", sent.path, sent.body, headers)
        connection.getresponse().read()
    connection.close()
