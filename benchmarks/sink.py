"""A cheap loopback service that accepts everything: the target of all routes of `deliver`.

A process of its own, so that its work is not theirs. It keeps bodies as they come; what is
in them is looked at when `drain_totals` or `taken` asks, after the time is taken. One thing it
has to know at once: Honeycomb answers each event singly, so its batches are decompressed
and their events counted (not parsed). Paths that have WARM_UP in them are answered and
forgotten.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import urlopen

import msgspec
import zstandard

from benchmarks.sent import Sent, spans_of

WARM_UP = "warm-up"
HEAD_END, HEAD_BYTES = b"\r\n\r\n", 64 * 1024
# As much as a route sends of the corpus; what is beyond that takes longer to be received.
ROOM_BYTES = 512 * 2**20
# Begins each event of either side, and cannot stand in a JSON string.
EVENT_BEGINS = b'{"time":'
ACCOUNT = {
    "type": "ingest",
    "api_key_access": {"events": True},
    "environment": {"name": "Bench", "slug": "bench"},
    "team": {"name": "Bench", "slug": "bench"},
}
_unzstd = zstandard.ZstdDecompressor()


class Sink:
    """A handle for the sink's process."""

    def __init__(self, url: str) -> None:
        self.url = url

    def drain_totals(self) -> dict[str, float]:
        """Return and reset `requests`, `bytes`, `spans` and `distinct` spans."""
        return self._ask("tally")

    def taken(self) -> list[Sent]:
        """Return and discard the bodies received so far."""
        with urlopen(f"{self.url}/taken") as answer:  # noqa: S310  # our own
            return msgspec.msgpack.decode(answer.read(), type=list[Sent])

    def cpu_seconds(self) -> float:
        """Return the CPU seconds that the process has used."""
        return float(self._ask("cpu")["seconds"])

    def _ask(self, what: str) -> dict[str, float]:
        with urlopen(f"{self.url}/{what}") as answer:  # noqa: S310  # our own
            found: dict[str, float] = json.load(answer)
            return found


@contextmanager
def running() -> Iterator[Sink]:
    """Run a sink for the duration of the block."""
    command = [sys.executable, "-m", "benchmarks.sink"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603  # our own
    assert process.stdout is not None
    try:
        yield Sink(process.stdout.readline().strip())
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


class _Kept:
    """The bodies that the process has received."""

    def __init__(self) -> None:
        self._bodies: list[tuple[str, str, memoryview]] = []
        # Touched in advance: the first write to a memory page takes microseconds.
        self._room = memoryview(bytearray(b"-") * ROOM_BYTES)
        self._used = 0

    def room(self, size: int) -> memoryview:
        """Return memory for a body of `size` bytes."""
        begin, end = self._used, self._used + size
        if end > ROOM_BYTES:
            return memoryview(bytearray(size))
        self._used = end
        return self._room[begin:end]

    def answer(self, method: str, path: str, encoding: str, body: memoryview) -> tuple[str, bytes]:
        """Return content type and body of the response to a request, a 200."""
        if method == "POST":
            if WARM_UP not in path:
                self._bodies.append((path, encoding, body))
            if path.startswith("/1/batch/"):
                count = _plain(encoding, bytes(body)).count(EVENT_BEGINS)
                return "application/json", b"[" + b",".join([b'{"status":202}'] * count) + b"]"
            return "application/x-protobuf", b""
        return "application/json", self._told(path)

    def _told(self, path: str) -> bytes:
        if path == "/1/auth":
            return json.dumps(ACCOUNT).encode()
        if path == "/cpu":
            return json.dumps({"seconds": time.process_time()}).encode()
        told = msgspec.msgpack.encode(list(self._sent())) if path == "/taken" else self._counts()
        self._bodies, self._used = [], 0
        return told

    def _sent(self) -> Iterator[Sent]:
        return (Sent(path, encoding, bytes(body)) for path, encoding, body in self._bodies)

    def _counts(self) -> bytes:
        ids = [span.key for sent in self._sent() for span in spans_of(sent)]
        counts = {
            "requests": len(self._bodies),
            "bytes": sum(len(body) for _, _, body in self._bodies),
            "spans": len(ids),
            "distinct": len(set(ids)),
        }
        return json.dumps(counts).encode()


class _Connection(asyncio.BufferedProtocol):
    """The subset of HTTP/1.1 that the measured clients use.

    A body is read to where it will stay: on two processors this process has one of those that
    the clients are measured on.
    """

    def __init__(self, kept: _Kept) -> None:
        self._kept = kept
        self._transport: Any = None
        self._head = memoryview(bytearray(HEAD_BYTES))
        self._expect_head()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._buffer[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        if self._request is None:
            self._look_for_head()
        if self._request is not None and self._filled == len(self._buffer):
            self._answer(*self._request, self._buffer)
            self._expect_head()

    def _expect_head(self) -> None:
        self._request: tuple[str, str, str] | None = None
        self._buffer = self._head
        self._filled = 0

    def _look_for_head(self) -> None:
        head, end, rest = bytes(self._buffer[: self._filled]).partition(HEAD_END)
        if not end:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (x.partition(": ") for x in lines)}
        method, path, _ = first.split(" ")
        self._request = method, path, headers.get("content-encoding", "")
        self._buffer = self._kept.room(int(headers.get("content-length", 0)))
        self._buffer[: len(rest)] = rest
        self._filled = len(rest)

    def _answer(self, method: str, path: str, encoding: str, body: memoryview) -> None:
        kind, said = self._kept.answer(method, path, encoding, body)
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(said)}\r\n\r\n"
        self._transport.write(head.encode() + said)


def _plain(encoding: str, body: bytes) -> bytes:
    match encoding:
        case "gzip":
            return gzip.decompress(body)
        case "zstd":
            plain: bytes = _unzstd.decompress(body)
            return plain
        case _:
            return body


async def _serve() -> None:
    kept = _Kept()
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection(kept), "127.0.0.1", 0
    )
    port = server.sockets[0].getsockname()[1]
    sys.stdout.write(f"http://127.0.0.1:{port}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve())
