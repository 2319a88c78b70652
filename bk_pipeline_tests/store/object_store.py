"""An S3 server on loopback: as much of the protocol as pyarrow's client (the AWS SDK) uses.

Keeps objects in memory, does not check signatures, and returns lists in pages of 3.

Source: Amazon S3 API reference.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import BinaryIO
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "bucket"
PAGE = 3


class ObjectStore(ThreadingHTTPServer):
    """`objects` holds each object's content by its key in `BUCKET`.

    While `denies_reading` is True, reading an object is denied.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.written_at: dict[str, datetime] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.denies_reading = False

    def uri(self, path: str) -> str:
        """The URI of a folder, as `pyarrow.fs` takes it."""
        place = f"http://127.0.0.1:{self.server_port}"
        return f"s3://key:secret@{BUCKET}/{path}?endpoint_override={quote(place, safe='')}&region=x"

    def put(self, key: str, content: bytes) -> None:
        self.objects[key] = content
        self.written_at[key] = datetime.now(UTC)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Header and body leave together.
    wbufsize = -1
    server: ObjectStore

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(60)

    def handle_expect_100(self) -> bool:
        done = super().handle_expect_100()
        self.wfile.flush()
        return done

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        url = urlsplit(self.path)
        self.query = {k: v[0] for k, v in parse_qs(url.query, keep_blank_values=True).items()}
        _, _, self.key = unquote(url.path).lstrip("/").partition("/")
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = _chunks(self.rfile)
        else:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        # The SDK's own chunks, with a checksum at the end.
        inner = "aws-chunked" in self.headers.get("Content-Encoding", "")
        self.content = _chunks(BytesIO(content)) if inner else content
        return True

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def fault(self, status: int, code: str) -> None:
        self.answer(status, f"<Error><Code>{code}</Code><Message/></Error>".encode())

    def do_HEAD(self) -> None:
        self.read()

    def do_GET(self) -> None:
        if self.key:
            self.read()
        else:
            self.list()

    def read(self) -> None:
        content = self.server.objects.get(self.key)
        if not self.key:
            self.answer(200)
        elif content is None:
            self.fault(404, "NoSuchKey")
        elif self.server.denies_reading and self.command == "GET":
            self.fault(403, "AccessDenied")
        else:
            found = {
                "ETag": _tag(content),
                "Last_Modified": format_datetime(self.server.written_at[self.key], usegmt=True),
            }
            limits = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if limits is None:
                self.answer(200, content, Content_Length=str(len(content)), **found)
                return
            first, last = int(limits[1]), int(limits[2] or len(content) - 1)
            if first >= len(content):
                self.fault(416, "InvalidRange")
                return
            part = content[first : last + 1]
            where = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
            self.answer(206, part, Content_Range=where, **found)

    def list(self) -> None:
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter", "")
        after = self.query.get("continuation-token") or self.query.get("start-after", "")
        found: dict[str, str] = {}
        for key in sorted(self.server.objects):
            if not key.startswith(prefix):
                continue
            head, mark, _ = key[len(prefix) :].partition(delimiter or "\0")
            if delimiter and mark:
                name = prefix + head + mark
                inner = f"<Prefix>{escape(name)}</Prefix>"
                found[name] = f"<CommonPrefixes>{inner}</CommonPrefixes>"
            else:
                found[key] = self.listed(key)
        names = [name for name in sorted(found) if name > after]
        shown, more = names[:PAGE], len(names) > PAGE
        token = "".join(shown[-1:]) if more else ""
        self.answer(
            200,
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>"
            f"<NextContinuationToken>{escape(token)}</NextContinuationToken>"
            f"<KeyCount>{len(shown)}</KeyCount>{''.join(found[name] for name in shown)}"
            "</ListBucketResult>".encode(),
        )

    def listed(self, key: str) -> str:
        at = f"{self.server.written_at[key]:%Y-%m-%dT%H:%M:%S.000Z}"
        size = len(self.server.objects[key])
        return (
            f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size>"
            f"<LastModified>{at}</LastModified></Contents>"
        )

    def do_PUT(self) -> None:
        source = self.headers.get("x-amz-copy-source")
        if source is not None:
            _, _, source = unquote(source).lstrip("/").partition("/")
            if source not in self.server.objects:
                self.fault(404, "NoSuchKey")
                return
            self.server.put(self.key, self.server.objects[source])
            self.answer(200, b"<CopyObjectResult><ETag>e</ETag></CopyObjectResult>")
        elif "uploadId" in self.query:
            number = int(self.query["partNumber"])
            self.server.uploads[self.query["uploadId"]][number] = self.content
            self.answer(200, ETag=_tag(self.content))
        else:
            self.server.put(self.key, self.content)
            self.answer(200, ETag=_tag(self.content))

    def do_POST(self) -> None:
        if "uploads" in self.query:
            name = f"upload-{len(self.server.uploads)}"
            self.server.uploads[name] = {}
            inner = f"<Key>{escape(self.key)}</Key><UploadId>{name}</UploadId>"
            result = f"<InitiateMultipartUploadResult>{inner}</InitiateMultipartUploadResult>"
            self.answer(200, result.encode())
        elif "uploadId" in self.query:
            parts = self.server.uploads[self.query["uploadId"]]
            self.server.put(self.key, b"".join(parts[number] for number in sorted(parts)))
            inner = f"<Key>{escape(self.key)}</Key><ETag>e</ETag>"
            result = f"<CompleteMultipartUploadResult>{inner}</CompleteMultipartUploadResult>"
            self.answer(200, result.encode())
        else:
            for key in re.findall(r"<Key>(.*?)</Key>", self.content.decode()):
                self.server.objects.pop(key, None)
            self.answer(200, b"<DeleteResult/>")

    def do_DELETE(self) -> None:
        self.server.objects.pop(self.key, None)
        self.answer(204)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def _tag(content: bytes) -> str:
    return f'"{md5(content, usedforsecurity=False).hexdigest()}"'


def _chunks(stream: BinaryIO) -> bytes:
    """The content of a chunked body, which is read to its end."""
    content = b""
    while size := int(stream.readline().partition(b";")[0], 16):
        content += stream.read(size)
        stream.readline()
    while stream.readline().strip():
        pass
    return content


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """A server that runs inside the block."""
    with ObjectStore() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
