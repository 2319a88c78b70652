"""Runs the sandbox in a separate process, so that its work and memory are not measured.

Its day is the corpus's, of a size that one chooses; its clock is the machine's, so all of
the day's builds have come to rest. It keeps its answers: what has been asked before costs it
next to nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.request import Request, urlopen

import msgspec

from benchmarks.corpus import DAY, SEED
from bk_pipeline.cli.demo import environment
from bk_pipeline.sandbox.as_of import build_as_of
from bk_pipeline.sandbox.server import Sandbox, serve
from bk_pipeline.sandbox.times import format_time
from bk_pipeline.sandbox.world import World
from bk_pipeline.settings import Settings

KEY = DAY.isoformat()


@dataclass
class StandIn:
    """A handle for the process. `variables` are the settings that point at it."""

    url: str
    variables: dict[str, str]
    process: subprocess.Popen[str]

    def settings(self, data_dir: str, **more: str) -> dict[str, str]:
        """Return settings with data in `data_dir` and without a maximum span age."""
        own = {"BK_PIPELINE_DATA_DIR": data_dir, "BK_PIPELINE_HONEYCOMB_MAX_AGE_DAYS": "0"}
        return {**self.variables, **own, **more}

    def stored(self) -> dict[str, Any]:
        """Return the sandbox's counts of what it has stored."""
        with urlopen(f"{self.url}/_sandbox/stored") as answer:  # noqa: S310  # our own
            found: dict[str, Any] = json.load(answer)
            return found

    def finish(self, builds: list[dict[str, Any]]) -> None:
        """Serve these finished builds from now on."""
        for build in builds:
            request = Request(  # noqa: S310  # our own
                f"{self.url}/_sandbox/builds",
                msgspec.json.encode(build),
                {"Content-Type": "application/json"},
            )
            urlopen(request).close()  # noqa: S310  # our own

    def memory_bytes(self) -> int:
        """Return the process's peak resident memory in bytes; 0 if unknown."""
        return peak_bytes(self.process.pid)

    def cpu_seconds(self) -> float:
        """Return the CPU seconds that the process has used; 0 if unknown."""
        try:
            with open(f"/proc/{self.process.pid}/stat") as stat:  # noqa: PTH123  # a pseudo-file
                fields = stat.read().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(builds: int, *, limits: bool = False) -> Iterator[StandIn]:
    """Run the sandbox with a day of `builds` builds for the duration of the block."""
    command = [sys.executable, "-m", "benchmarks.stand_in", str(builds), "limits" * limits]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603  # our own
    assert process.stdout is not None
    try:
        variables = json.loads(process.stdout.readline())
        yield StandIn(variables["BUILDKITE_API_URL"], variables, process)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def late_builds(count: int, series: int) -> list[dict[str, Any]]:
    """Return `count` builds of the day that end now; each series has its own ids."""
    world = World(seed=SEED + 1, days=1, builds_per_day=100, today=DAY)
    now = int(time.time() * 1000)
    made = [build for build in world.builds(DAY) if len(build.jobs) > 1][:count]
    builds = []
    for number, life in enumerate(made):
        build = build_as_of(life, now)
        assert build is not None
        text = msgspec.json.encode(build).decode()
        for id_ in [build["id"], *(job["id"] for job in build["jobs"])]:
            text = text.replace(id_, f"{series:04x}{number:04x}{id_[8:]}"[:36])
        changed = {"number": 10_000_000 + series * count + number, "finished_at": format_time(now)}
        builds.append(msgspec.json.decode(text) | changed)
    return builds


def settings_of(variables: str) -> Settings:
    """Return the settings that a benchmark passed to its process as JSON."""
    return Settings.of(**json.loads(variables))


def peak_bytes(pid: int) -> int:
    """Return the peak resident memory of a process in bytes; 0 if unknown."""
    try:
        with open(f"/proc/{pid}/status") as status:  # noqa: PTH123  # a pseudo-file
            lines = dict(line.split(":", 1) for line in status)
    except OSError:
        return 0
    return int(lines["VmHWM"].removesuffix("kB\n")) * 1024


def main(builds: str, limits: str = "") -> None:
    """Serve the sandbox, and print its settings as JSON once it is ready."""
    world = World(seed=SEED, days=1, builds_per_day=int(builds), today=DAY + timedelta(days=1))
    world.builds(DAY)
    stand_in = Sandbox(world, limits=bool(limits), keep_events=False, cache_responses=True)

    def announce(url: str) -> None:
        sys.stdout.write(json.dumps(environment(stand_in, url)) + "\n")
        sys.stdout.flush()

    serve(stand_in, host="127.0.0.1", port=0, on_ready=announce)


if __name__ == "__main__":
    main(*sys.argv[1:])
