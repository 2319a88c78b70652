"""Ids: UUIDs that carry their time in front, as Buildkite's do, and ids made from names."""

from __future__ import annotations

import base64
import hashlib
import uuid
from random import Random

_STEP_STRIDE = 0x9E3779B97F4A
_NODE_MASK = (1 << 48) - 1


def timed_uuid(moment: int, rng: Random) -> str:
    """A version-7 UUID for `moment` (milliseconds); all else comes from `rng`.

    The last 62 random bits make the span ids that clients derive, so they
    must differ between any two jobs.
    """
    stamp = f"{moment:012x}"
    bits = rng.getrandbits(74)
    return (
        f"{stamp[:8]}-{stamp[8:]}-7{bits >> 62:03x}"
        f"-{0x8000 | (bits >> 48) & 0x3FFF:04x}-{bits & _NODE_MASK:012x}"
    )


def named_uuid(*parts: str) -> str:
    """The same UUID for the same `parts`, in every run."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))


def step_uuid(build_id: str, ordinal: int) -> str:
    """The id that all jobs of one step share within a build.

    Computed and not stored: a day may hold half a million jobs.
    """
    node = (int(build_id[24:], 16) + (ordinal + 1) * _STEP_STRIDE) & _NODE_MASK
    return f"{build_id[:24]}{node:012x}"


def graphql_id(kind: str, identifier: str) -> str:
    """What Buildkite's recorded `graphql_id` values decode to: kind, three dashes, UUID."""
    return base64.b64encode(f"{kind}---{identifier}".encode()).decode()
