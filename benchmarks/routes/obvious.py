"""Shared by the two simple routes: states, ids, JSON text. It uses no code of ours."""

from __future__ import annotations

import json
from hashlib import sha256

NO_SPAN = {"broken", "skipped"}
ENDED = {"passed", "failed", "canceled", "timed_out", "expired", "finished"}
FAILED = {"failed", "timed_out", "expired"}
RESULTS = {
    "passed": "success",
    "unblocked": "success",
    "failed": "failure",
    "timed_out": "timeout",
    "expired": "timeout",
    "canceled": "cancellation",
    "skipped": "skip",
    "not_run": "skip",
}
STEP_TYPES = {"script": "command", "manual": "block", "trigger": "trigger"}

dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def repository_of(address: str) -> tuple[str, str, str]:
    """Return URL, owner and name of a repository like `git@github.com:acme/web.git`."""
    host, _, path = address.removeprefix("git@").removesuffix(".git").partition(":")
    owner, _, name = path.partition("/")
    return f"https://{host}/{path}", owner, name


def last_digits(uuid: str) -> str:
    """Return the last 16 hex digits of a UUID."""
    return uuid[19:23] + uuid[24:]


def span_id(*parts: str) -> str:
    """Return the hash of `parts` as a span id."""
    return sha256("\0".join(parts).encode()).hexdigest()[:16]
