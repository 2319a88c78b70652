"""What the tests of several processes have each of them do: ask so many times."""

from __future__ import annotations

import sys
from pathlib import Path

from bk_pipeline.buildkite.client import BuildkiteClient
from bk_pipeline.buildkite.shared_quota import SharedQuota
from bk_pipeline.clock import SystemClock


def ask(url: str, token: str, path: str, times: str) -> None:
    """When told to on standard input, so that all processes begin together."""
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    clock = SystemClock()
    quota = SharedQuota(Path(path))
    with BuildkiteClient("acme", token, api_url=url, clock=clock, quota=quota) as client:
        for _ in range(int(times)):
            client.access_token()
        print(client.usage.requests)  # noqa: T201


def die(path: str) -> None:
    """Take leave for a request, say so, and never give it back."""
    ticket = SharedQuota(Path(path)).begin(SystemClock().monotonic())
    print("gone" if ticket else "refused", flush=True)  # noqa: T201
    sys.stdin.read()


if __name__ == "__main__":
    {"ask": ask, "die": die}[sys.argv[1]](*sys.argv[2:])
