"""A loopback service that takes all and is cheap: what both sides of `deliver` send to.

A process of its own, so that its work is not theirs. It keeps bodies as they come; what is
in them is looked at when `tally` or `taken` asks, after the time is taken. One thing it
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
HEAD_END = b"\r\n\r\n"
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
    """The process, from outside."""

    def __init__(self, url: str) -> None:
        self.url = url

    def tally(self) -> dict[str, float]:
        """`requests`, `bytes`, `spans` and `distinct` ones since the last time; forgets them."""
        return self._ask("tally")

    def taken(self) -> list[Sent]:
        """The bodies since the last time; forgets them."""
        with urlopen(f"{self.url}/taken") as answer:  # noqa: S310  # our own
            return msgspec.msgpack.decode(answer.read(), type=list[Sent])

    def cpu_seconds(self) -> float:
        return float(self._ask("cpu")["seconds"])

    def _ask(self, what: str) -> dict[str, float]:
        with urlopen(f"{self.url}/{what}") as answer:  # noqa: S310  # our own
            found: dict[str, float] = json.load(answer)
            return found


@contextmanager
def running() -> Iterator[Sink]:
    """A sink as long as the block lasts."""
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
    """What the process has taken."""

    def __init__(self) -> None:
        self.bodies: list[Sent] = []

    def answer(self, method: str, path: str, encoding: str, body: bytes) -> tuple[str, bytes]:
        """Content type and body of the 200 that answers a request."""
        if method == "POST":
            if WARM_UP not in path:
                self.bodies.append(Sent(path, encoding, body))
            if path.startswith("/1/batch/"):
                count = _plain(encoding, body).count(EVENT_BEGINS)
                return "application/json", b"[" + b",".join([b'{"status":202}'] * count) + b"]"
            return "application/x-protobuf", b""
        return "application/json", self._told(path)

    def _told(self, path: str) -> bytes:
        if path == "/1/auth":
            return json.dumps(ACCOUNT).encode()
        if path == "/cpu":
            return json.dumps({"seconds": time.process_time()}).encode()
        bodies, self.bodies = self.bodies, []
        if path == "/taken":
            return msgspec.msgpack.encode(bodies)
        ids = [span.key for sent in bodies for span in spans_of(sent)]
        counts = {
            "requests": len(bodies),
            "bytes": sum(len(sent.body) for sent in bodies),
            "spans": len(ids),
            "distinct": len(set(ids)),
        }
        return json.dumps(counts).encode()


class _Connection(asyncio.Protocol):
    """As much of HTTP/1.1 as clients of ours and of theirs speak."""

    def __init__(self, kept: _Kept) -> None:
        self._kept = kept
        self._received = bytearray()
        self._wanted = 0  # bytes, before it is worth looking again
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while len(self._received) >= self._wanted:
            head_bytes = self._received.find(HEAD_END)
            if head_bytes < 0:
                return
            first, *lines = self._received[:head_bytes].decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (x.partition(": ") for x in lines)}
            body_at = head_bytes + len(HEAD_END)
            end = body_at + int(headers.get("content-length", 0))
            if len(self._received) < end:
                self._wanted = end
                return
            body = bytes(self._received[body_at:end])
            del self._received[:end]
            self._wanted = 1
            method, path, _ = first.split(" ")
            kind, said = self._kept.answer(method, path, headers.get("content-encoding", ""), body)
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
