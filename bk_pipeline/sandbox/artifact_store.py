"""The store of artifacts, on a host (here: a port) of its own.

Addresses are signed and hold for 60 seconds by the sandbox's clock. As the real stores do, it
refuses requests that carry credentials as well: `leaked_count` is how many did. Ranges are served
as by S3. The wording of its errors is a guess.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

PREFIX = "/store/"
HOLDS_S = 60
_KEY = b"sandbox-only-signing-key"
_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)


class ArtifactStore:
    """Serves artifacts at signed addresses.

    Args:
        find: The content of an artifact by the slug of its pipeline, the number of its build, the
            id of its job, and its own; None if there is none.
        clock: Seconds since 1970.

    Attributes:
        url: Scheme, host and port, once it is served.
        requests: All requests as (method, path, query string).
        leaked_count: Requests that carried a token or a key of another service.
    """

    def __init__(
        self, find: Callable[[str, int, str, str], bytes | None], clock: Callable[[], float]
    ) -> None:
        self.url = ""
        self.requests: list[tuple[str, str, str]] = []
        self.leaked_count = 0
        self._find = find
        self._clock = clock

    @property
    def request_count(self) -> int:
        """How many requests have arrived since the last reset."""
        return len(self.requests)

    def record_request(self, method: str, path: str, query: str) -> None:
        """Record a request in `requests`."""
        self.requests.append((method, path, query))

    def reset(self) -> None:
        """Forget the recorded requests."""
        self.requests, self.leaked_count = [], 0

    def address(self, slug: str, number: int, job_id: str, artifact_id: str) -> str:
        """A signed address of an artifact."""
        path = f"{PREFIX}{quote(slug)}/{number}/{job_id}/{artifact_id}"
        expires = int(self._clock()) + HOLDS_S
        query = urlencode({"Expires": expires, "Signature": _signature(path, expires)})
        return f"{self.url}{path}?{query}"

    def routes(self) -> list[Route]:
        """The route of all artifacts."""
        path = PREFIX + "{slug}/{number:int}/{job_id}/{artifact_id}"
        return [Route(path, self._serve)]

    def _serve(self, request: Request) -> Response:
        if "authorization" in request.headers or "x-honeycomb-team" in request.headers:
            self.leaked_count += 1
            return _error(400, "InvalidArgument", "Only one auth mechanism allowed")
        query = request.query_params
        expires = query.get("Expires", "")
        signed = _signature(request.url.path, int(expires) if expires.isdecimal() else 0)
        if not hmac.compare_digest(
            signed, query.get("Signature", "").encode("ascii", "replace").decode()
        ):
            return _error(403, "SignatureDoesNotMatch", "The signature does not match")
        if int(expires) < self._clock():
            return _error(403, "AccessDenied", "Request has expired")
        path = request.path_params
        content = self._find(path["slug"], path["number"], path["job_id"], path["artifact_id"])
        if content is None:
            return _error(404, "NoSuchKey", "The specified key does not exist")
        return _ranged(content, request.headers.get("range"))


def _signature(path: str, expires: int) -> str:
    return hmac.new(_KEY, f"{path}\n{expires}".encode(), hashlib.sha256).hexdigest()


def _ranged(content: bytes, value: str | None) -> Response:
    """The content, or the range of it that is requested. Several ranges are ignored."""
    headers = {"Accept-Ranges": "bytes", "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"'}
    kind, size = "binary/octet-stream", len(content)
    match = _RANGE.fullmatch(value or "")
    if match is None or match[1] == match[2] == "":
        return Response(content, 200, headers, kind)
    if match[1]:
        start, last = int(match[1]), min(int(match[2] or size), size - 1)
    else:
        start, last = max(size - int(match[2]), 0), size - 1
    if start > last:
        return Response(b"", 416, {**headers, "Content-Range": f"bytes */{size}"}, kind)
    headers["Content-Range"] = f"bytes {start}-{last}/{size}"
    return Response(content[start : last + 1], 206, headers, kind)


def _error(status: int, code: str, message: str) -> Response:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Response(body, status, media_type="application/xml")
