"""What the client of logs and artifacts takes and returns, and how it reads the API's elements."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from bk_pipeline.text import sanitize_json

T = TypeVar("T")


class JobRef(msgspec.Struct, frozen=True):
    """Which job: the slug of its pipeline, its build's number, and its UUID."""

    pipeline: str
    number: int
    job_id: str


class LogTail(msgspec.Struct, frozen=True):
    """The end of a log. `size` is that of the whole log in bytes; None if it is not known."""

    content: bytes
    size: int | None

    @property
    def whole(self) -> bool:
        """Whether `content` is the whole log."""
        return self.size is not None and len(self.content) >= self.size


class Artifact(msgspec.Struct, frozen=True):
    """A file that a job uploaded. `state` is new, error, finished, deleted or expired."""

    id: str
    job: JobRef
    path: str
    state: str
    filename: str | None = None
    mime_type: str | None = None
    size: int | None = None
    sha1: str | None = None


class _Listed(msgspec.Struct):
    """The fields that an artifact needs; the others are read if they have the right type."""

    id: str
    job_id: str
    path: str
    state: str = "unknown"
    filename: Any = None
    mime_type: Any = None
    file_size: Any = None
    sha1sum: Any = None


def read_artifact(element: bytes, pipeline: str, number: int) -> Artifact | None:
    """The artifact in an element of a build's listing; None without id, job or path."""
    found = decoded(element, _Listed)
    if found is None or not (found.id and found.job_id and found.path):
        return None
    size = found.file_size
    has_size = isinstance(size, int) and not isinstance(size, bool) and size >= 0
    return Artifact(
        id=found.id,
        job=JobRef(pipeline, number, found.job_id),
        path=found.path,
        state=found.state,
        filename=_text(found.filename),
        mime_type=_text(found.mime_type),
        size=size if has_size else None,
        sha1=_text(found.sha1sum),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def decoded(element: bytes, kind: type[T]) -> T | None:
    """The element of a listing, decoded; None if it is not a `kind`."""
    try:
        return _decode(element, kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _decode(element: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(element, type=kind)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.json.decode(sanitize_json(element), type=kind)
