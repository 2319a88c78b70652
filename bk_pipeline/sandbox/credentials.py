"""Ids of generated objects, and API tokens and keys in the real format that are plainly fake."""

from __future__ import annotations

import base64
import hashlib
import uuid
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

ALL_SCOPES = (
    "read_accounts",
    "read_artifacts",
    "read_build_logs",
    "read_builds",
    "read_clusters",
    "read_organizations",
    "read_pipelines",
    "read_suites",
)

# What a configuration key can manage besides markers.
MANAGEMENT = ("boards", "columns", "triggers", "slos")

KeyKind = Literal["ingest", "configuration", "classic_ingest", "classic_configuration"]
_KEY_KINDS = ("ingest", "configuration", "classic_ingest", "classic_configuration")


_STEP_STRIDE = 0x9E3779B97F4A
_NODE_MASK = (1 << 48) - 1


def timed_uuid(at_ms: int, rng: Random) -> str:
    """A version 7 UUID for a time in milliseconds, with random bits from `rng`.

    Clients derive span ids from the last 62 random bits, so these must differ
    between any two jobs.
    """
    stamp = f"{at_ms:012x}"
    bits = rng.getrandbits(74)
    return (
        f"{stamp[:8]}-{stamp[8:]}-7{bits >> 62:03x}"
        f"-{0x8000 | (bits >> 48) & 0x3FFF:04x}-{bits & _NODE_MASK:012x}"
    )


def named_uuid(*parts: str) -> str:
    """A UUID that depends on `parts` only."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))


def step_uuid(build_id: str, ordinal: int) -> str:
    """The id that all jobs of one step share within a build.

    It is computed rather than stored, because a day can have half a million jobs.

    Args:
        build_id: The UUID of the build.
        ordinal: The position of the step in the pipeline.
    """
    node = (int(build_id[24:], 16) + (ordinal + 1) * _STEP_STRIDE) & _NODE_MASK
    return f"{build_id[:24]}{node:012x}"


def graphql_id(kind: str, identifier: str) -> str:
    """A `graphql_id` in the recorded format: base64 of kind, three dashes and UUID."""
    return base64.b64encode(f"{kind}---{identifier}".encode()).decode()


@dataclass(frozen=True, slots=True)
class Token:
    """A Buildkite API access token, and the user whose rate limit it counts against."""

    value: str
    scopes: tuple[str, ...]
    user: str

    def payload(self) -> dict[str, Any]:
        """The body of the access-token endpoint."""
        return {
            "uuid": named_uuid("token", self.value),
            "scopes": list(self.scopes),
            "description": "Sandbox token",
            "created_at": "2026-01-01T00:00:00.000Z",
            "expires_at": None,
            "user": {"name": self.user, "email": f"{self.user}@sandbox.example"},
        }


@dataclass(frozen=True, slots=True)
class HoneycombKey:
    """A Honeycomb API key and what it permits."""

    value: str
    kind: KeyKind
    create_datasets: bool
    events: bool
    markers: bool = True
    granted: frozenset[str] = frozenset(MANAGEMENT)

    @property
    def can_send_events(self) -> bool:
        """Whether the key can send events; ingest keys always can."""
        return self.events or self.kind.endswith("ingest")

    @property
    def can_manage_markers(self) -> bool:
        """Whether the key can create, change and delete markers; ingest keys never can."""
        return self.markers and not self.kind.endswith("ingest")

    @property
    def management(self) -> frozenset[str]:
        """What the key can manage, as the auth endpoint names it; ingest keys nothing."""
        if self.kind.endswith("ingest"):
            return frozenset()
        return self.granted | ({"create_datasets"} if self.create_datasets else set())

    def payload(self) -> dict[str, Any]:
        """The body of the auth endpoint. An ingest key's access has no `events`."""
        classic = self.kind.startswith("classic")
        environment = "" if classic else "sandbox"
        if self.kind.endswith("ingest"):
            identifier, kind = self.value[:32], "ingest"
            access = {"createDatasets": self.create_datasets}
        else:
            identifier, kind = (
                f"hcxlk_{named_uuid('key', self.value).replace('-', '')[:26]}",
                "configuration",
            )
            access = dict.fromkeys(("queries", "recipients", "privateBoards"), False)
            access |= {name: name in self.granted for name in MANAGEMENT}
            access |= {
                "events": self.events,
                "markers": self.markers,
                "createDatasets": self.create_datasets,
            }
        return {
            "id": identifier,
            "type": kind,
            "api_key_access": access,
            "environment": {"name": environment.title(), "slug": environment},
            "team": {"name": "Sandbox", "slug": "sandbox"},
        }


def token_value(number: int) -> str:
    """The `number`-th Buildkite token."""
    return f"bkua_{number:040x}"


def key_value(kind: KeyKind, number: int) -> str:
    """The `number`-th Honeycomb key, in the format of its kind.

    Raises:
        ValueError: There is no such kind.
    """
    if kind not in _KEY_KINDS:
        raise ValueError(f"There is no key kind {kind!r}; use one of {', '.join(_KEY_KINDS)}.")
    if kind == "configuration":
        return f"SandboxOnlyKey{number:08d}"
    if kind == "classic_configuration":
        return f"{number:032x}"
    prefix = "hcaik_" if kind == "ingest" else "hcaic_"
    return prefix + f"sandboxonly{number:047d}"
