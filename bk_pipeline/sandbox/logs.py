"""The log of a job: agent phases, sections and the output of tools, made when it is requested.

The format is that of recorded logs: `ESC _bk;t=<ms> BEL` before each line, several of them in a
line that a program rewrites, CR LF at the end, and a second CR where a terminal added one. A tenth
of the jobs ran on an old agent, which puts no times in the text.

Guess: an old agent's `header_times` have one value more than the log has headers.
"""

from __future__ import annotations

from random import Random
from typing import Any

from bk_pipeline.sandbox.stories import Case, Story, story_of
from bk_pipeline.sandbox.tools import filled

_MS_NS = 1_000_000
_OLD_AGENTS, _DELETED = 10, 29
_HOOKS = "/etc/buildkite-agent/hooks"
_HEADERS = ("--- ", "+++ ", "~~~ ")
_GRAY, _RESET, _RED = "\x1b[90m", "\x1b[0m", "\x1b[31m"
_PASSING = {"jest": "PASS", "go": "ok  ", "xcodebuild": "Test Case passed:", "pytest": "PASSED"}


class Log:
    """A job's log as of a time.

    Attributes:
        content: The stored bytes.
        header_times: Nanoseconds since 1970.
    """

    def __init__(self, until_ms: int, *, timed: bool) -> None:
        self.header_times: list[int] = []
        self._until_ms = until_ms
        self._timed = timed
        self._lines: list[str] = []

    @property
    def content(self) -> bytes:
        """The stored bytes."""
        return "".join(self._lines).encode()

    def line(self, at_ms: int, text: str, end: str = "\r\n") -> None:
        """Add a line, unless the time is later than that of the log.

        A line that looks like a section's header is one, whatever program wrote it.
        """
        if at_ms > self._until_ms:
            return
        if text.startswith(_HEADERS):
            self.header_times.append(at_ms * _MS_NS + len(self._lines) % 1000)
        self._lines.append(f"{self._mark(at_ms)}{text}{end}")

    def progress(self, at_ms: int, texts: list[str]) -> None:
        """Add a line that a program rewrites, with a time before each version."""
        versions = [f"{text}\x1b[K{self._mark(at_ms)}\r" for text in texts]
        self.line(at_ms, "".join(versions), "\r\r\n")

    def _mark(self, at_ms: int) -> str:
        return f"\x1b_bk;t={at_ms}\x07" if self._timed else ""


def log_of(job: dict[str, Any], at_ms: int) -> Log | None:
    """The log of a job at a time, or None if there is none.

    There is none of a job that is not a script, and some logs have been deleted. The log of a job
    that has not started is empty.

    Args:
        job: The API's job object as of the job's end.
        at_ms: Milliseconds since 1970.
    """
    if job.get("type") != "script" or is_deleted(job):
        return None
    rng = Random(f"log/{job['id']}")
    log = Log(at_ms, timed=bool(rng.randrange(_OLD_AGENTS)))
    story = story_of(job)
    if story is not None and at_ms >= story.start_ms:
        _write(log, story, rng)
        if log.content and not log.content.startswith(b"\x1b_bk"):
            log.header_times.append(log.header_times[-1] + 1)
    return log


def is_deleted(job: dict[str, Any]) -> bool:
    """Whether the job's log has been deleted."""
    return Random(f"deleted/{job['id']}").randrange(_DELETED) == 0


def _write(log: Log, story: Story, rng: Random) -> None:
    _prepare(log, story, rng)
    _work(log, story, rng)
    if story.cause is None or story.cause.lines:
        _finish(log, story)


def _prepare(log: Log, story: Story, rng: Random) -> None:
    """The agent's phases before the command, which take the time until `tests_ms`."""
    start_ms, length_ms = story.start_ms, story.tests_ms - story.start_ms

    def at(share: float) -> int:
        return start_ms + int(length_ms * share)

    log.line(at(0), "~~~ Running global environment hook")
    log.line(at(0), f"{_GRAY}${_RESET} {_HOOKS}/environment")
    log.line(at(0.02), "~~~ Preparing working directory")
    log.line(at(0.02), f"{_GRAY}${_RESET} cd /buildkite/builds/{story.job['id'][-6:]}/acme/shop")
    log.line(at(0.03), f"{_GRAY}${_RESET} git fetch -v --prune -- origin HEAD")
    total = rng.randrange(20, 60)
    counts = [
        f"remote: Counting objects: {n * 100 // total:3}% ({n}/{total})" for n in range(1, total)
    ]
    log.progress(at(0.1), counts)
    log.line(at(0.2), "From github.com:acme/shop")
    log.line(at(0.3), f"HEAD is now at {rng.getrandbits(28):07x} Speed up cold start")
    if rng.randrange(3) == 0:
        log.line(at(0.4), "~~~ Running plugin docker pre-command hook")
        log.line(at(0.4), f"{_GRAY}${_RESET} /etc/buildkite-agent/plugins/docker/hooks/pre-command")
        log.line(at(0.45), "--- :docker: Pulling image")
        log.line(at(0.9), f"Digest: sha256:{rng.getrandbits(256):064x}")
    log.line(at(0.9), "~~~ Running commands")
    for command in (story.job.get("command") or "").split("\n"):
        log.line(at(0.9), f"{_GRAY}${_RESET} {command}")
    log.line(at(0.92), f"--- :gear: Setting up {story.tool.name}")
    lines = filled(story.tool.progress, rng)
    for number in range(count := rng.randrange(8, 60)):
        log.line(at(0.92 + 0.08 * number / count), lines[number % len(lines)])


def _work(log: Log, story: Story, rng: Random) -> None:
    """The command's own sections and output, from `tests_ms` to `work_end_ms`."""
    begin_ms, length_ms = story.tests_ms, story.work_end_ms - story.tests_ms
    if story.cases:
        log.line(begin_ms, "+++ :test_tube: Running tests")
        for case in story.cases:
            log.line(begin_ms + case.end_ms, _outcome(story, case))
    elif rng.randrange(2):
        log.line(begin_ms, f"--- :hammer: Running {story.tool.name}")
        log.line(begin_ms, "---------------------------------------------")
        for number in range(count := rng.randrange(8, 60)):
            done_ms = begin_ms + length_ms * number // count
            log.line(done_ms, f"[{number}/{count}] \x1b[32m\u2713\x1b[0m part {number}")
    for line in story.cause.lines if story.cause else ():
        colored = line.startswith(("E", "\u2716"))
        log.line(story.work_end_ms, f"{_RED}{line}{_RESET}" if colored else line)


def _outcome(story: Story, case: Case) -> str:
    if case.result == "passed":
        again = " (passed on retry #1)" if case.reruns else ""
        passing = _PASSING.get(story.tool.name, "\u2713")
        return f"{passing} {case.file} {case.name} ({case.seconds:.3f}s){again}"
    return f"{case.result.upper()} {case.file} {case.name} ({case.seconds:.3f}s)"


def _finish(log: Log, story: Story) -> None:
    """The agent's phases after the command."""
    end_ms = story.work_end_ms
    status = story.job.get("exit_status")
    if story.cause is not None:
        log.line(end_ms, "^^^ +++")
        log.line(end_ms, f"\U0001f6a8 Error: The command exited with status {status}")
    if story.job.get("artifact_paths"):
        log.line(end_ms, "~~~ Uploading artifacts")
        log.line(
            end_ms,
            f"{_GRAY}${_RESET} buildkite-agent artifact upload {story.job['artifact_paths']}",
        )
        log.line(story.end_ms, "Artifact uploads completed successfully")
    log.line(story.end_ms, "~~~ Running global pre-exit hook")
    log.line(story.end_ms, f"{_GRAY}${_RESET} {_HOOKS}/pre-exit")
