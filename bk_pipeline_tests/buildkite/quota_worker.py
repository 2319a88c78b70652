"""A worker process for the tests of a quota that processes share."""

from __future__ import annotations

import sys
from pathlib import Path

from bk_pipeline.buildkite.client import BuildkiteClient
from bk_pipeline.buildkite.shared_quota import SharedQuota
from bk_pipeline.clock import SystemClock


def ask(url: str, token: str, path: str, times: str) -> None:
    """Make `times` requests after a line on standard input, so that processes start together."""
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    clock = SystemClock()
    quota = SharedQuota(Path(path))
    with BuildkiteClient("acme", token, api_url=url, clock=clock, quota=quota) as client:
        for _ in range(int(times)):
            client.access_token()
        print(client.usage.requests)  # noqa: T201


def die(path: str) -> None:
    """Take a permit, print a line, and never settle it."""
    permit = SharedQuota(Path(path)).begin(SystemClock().monotonic())
    print("gone" if permit else "refused", flush=True)  # noqa: T201
    sys.stdin.read()


if __name__ == "__main__":
    {"ask": ask, "die": die}[sys.argv[1]](*sys.argv[2:])
