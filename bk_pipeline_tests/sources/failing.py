"""Ends of logs of jobs that failed, made up after what each tool prints, by kind of failure.

`python -m bk_pipeline_tests.sources.precision` measures on them how often the kind is right.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec

STARTED_MS = 1_790_000_000_000


class Example(msgspec.Struct, frozen=True):
    """The output of a command that failed. `message` is a part of the message to be found."""

    name: str
    kind: str
    output: str
    message: str
    exit_status: int = 1
    signal_reason: str | None = None


def framed(
    output: str, exit_status: int = 1, *, markers: bool = True, started_ms: int = STARTED_MS
) -> bytes:
    """Return the log of a job whose command printed `output` and failed, as an agent writes it."""
    lines = [
        "~~~ Running global environment hook",
        "\x1b[90m$\x1b[0m /etc/agent/hooks/environment",
        "~~~ Preparing working directory",
        "\x1b[90m$\x1b[0m git fetch -v --prune -- origin main",
        "HEAD is now at 1f2e3d4 Handle errors of the failed retry",
        "~~~ Running commands",
        "\x1b[90m$\x1b[0m make ci",
        *output.strip("\n").splitlines(),
        "^^^ +++",
        f"\U0001f6a8 Error: The command exited with status {exit_status}",
        "^^^ +++",
        f"user command error: exit status {exit_status}",
        "~~~ Running global pre-exit hook",
        "\x1b[90m$\x1b[0m /etc/agent/hooks/pre-exit",
        "Cleaning up failed containers: none",
    ]
    made = [
        f"\x1b_bk;t={started_ms + 100 * at}\x07{line}\r\n" if markers else f"{line}\n"
        for at, line in enumerate(lines)
    ]
    return "".join(made).encode()


EXAMPLES = msgspec.convert(
    tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))["example"],
    list[Example],
)
