"""Generated life cycles of builds, and the payload that the API has at any time.

A life is a row of stages with pauses between them. Each job knows in which stage it really
ran, which the payload does not say. Times are milliseconds since the build's creation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from bk_pipeline_tests.builders import at, make_block, make_build, make_job, uid

SECOND, HOUR, DAY = 1_000, 3_600_000, 86_400_000
# What the clocks are known to disagree by.
FIRST_JOB_EARLIER = st.integers(9, 105)
FINISHED_LATER = st.integers(65, 372)
TO_BECOME_RUNNABLE = st.integers(5, 150)

LENGTHS = st.one_of(st.integers(1, 400), st.integers(SECOND, 90 * SECOND), st.integers(HOUR, DAY))
WAITS = st.one_of(st.integers(0, 50), st.integers(SECOND, 60 * SECOND))
GAPS = st.one_of(st.integers(20, 200), st.integers(HOUR, 5 * HOUR))
PAUSES = st.one_of(
    st.integers(1, 500), st.integers(SECOND, 60 * SECOND), st.integers(HOUR, 9 * DAY)
)


@dataclass
class Life:
    """One job's: `stage` is where it belongs, `ended` None if it never did.

    A block step has only `ended`: its unblocking.
    """

    name: str
    created: int
    stage: int = 0
    runnable: int | None = None
    started: int | None = None
    ended: int | None = None
    state: str = "passed"
    block_step: bool = False
    replaces: Life | None = None
    kind: str = ""
    step: str = ""
    marks: dict[str, Any] = field(default_factory=dict)


@dataclass
class Pause:
    """A period in which the API shows the build as finished."""

    finished: int
    until: int | None
    blocked: bool


@dataclass
class Timeline:
    lives: list[Life]
    pauses: list[Pause]
    whole_seconds: frozenset[str]  # the fields without milliseconds, as before 2020

    def payload(self, moment: int | None = None) -> dict[str, Any]:
        """Return the payload at `moment`, during a pause; at the end if it is None."""
        now = moment if moment is not None else 1 << 60
        pause = [one for one in self.pauses if one.finished <= now][-1]
        shown = [one for one in self.lives if one.created <= now]
        return make_build(
            [self._job(one, now) for one in shown],
            finished_at=at(pause.finished / 1000),
            blocked=pause.blocked,
            blocked_state="passed" if pause.blocked else "",
        )

    def _job(self, one: Life, now: int) -> dict[str, Any]:
        over = one.ended is not None and one.ended <= now
        if one.block_step:
            return make_block(
                one.name, unblocked_s=one.ended / 1000 if over and one.ended is not None else None
            )
        heir = next((o for o in self.lives if o.replaces is one and o.created <= now), None)
        job = make_job(one.name, state=one.state if over else "waiting", runnable_s=None)
        source = one.replaces
        return job | {
            "id": uid(f"timeline {one.name}"),
            "created_at": at(one.created / 1000),
            "runnable_at": self._time("runnable_at", one.runnable, now),
            "started_at": self._time("started_at", one.started, now),
            "finished_at": self._time("finished_at", one.ended, now),
            "retried": heir is not None,
            "retried_in_job_id": uid(f"timeline {heir.name}") if heir else None,
            "retry_type": heir.kind if heir else None,
            "retry_source": source
            and {"job_id": uid(f"timeline {source.name}"), "retry_type": one.kind},
            **one.marks,
        }

    def _time(self, name: str, moment: int | None, now: int) -> str | None:
        if moment is None or moment > now:
            return None
        whole = name in self.whole_seconds
        return at((moment // SECOND * SECOND if whole else moment) / 1000)

    def job_id(self, one: Life) -> str:
        return uid(f"job {one.name}" if one.block_step else f"timeline {one.name}")


class _Generator:
    """Generates a timeline."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        modes: list[frozenset[str]] = [
            frozenset(),
            frozenset({"runnable_at"}),
            frozenset({"runnable_at", "started_at"}),
            frozenset({"runnable_at", "started_at", "finished_at"}),
        ]
        self.whole = draw(st.sampled_from(modes))
        # Nothing that matters happens closer together than the payload can tell.
        self.blur = 2 * SECOND if self.whole else 0
        self.lives: list[Life] = []
        self.pauses: list[Pause] = []
        self.stage = 1
        self.now = 0
        self.first_created = -draw(FIRST_JOB_EARLIER)

    def play(self) -> Timeline:
        draw = self.draw
        if draw(st.booleans()):
            self._run()
        for _ in range(draw(st.integers(0, 4))):
            ended = [one for one in self.lives if self._is_retryable(one)]
            if ended and draw(st.booleans()):
                self._retry(ended)
            else:
                self._unblock()
        self._pause(blocked=False, until=None)
        return Timeline(self.lives, self.pauses, self.whole)

    def _is_retryable(self, one: Life) -> bool:
        replaced = any(other.replaces is one for other in self.lives)
        return not one.block_step and one.ended is not None and not replaced

    def _pause(self, *, blocked: bool, until: int | None) -> None:
        finished = self.now + self.draw(FINISHED_LATER)
        if until is None or finished < until:
            self.pauses.append(Pause(finished, until, blocked))

    def _rest(self, *, blocked: bool) -> None:
        begin = self.now
        pause = self.draw(PAUSES) + self.blur
        self._pause(blocked=blocked, until=begin + pause)
        self.now = begin + pause

    def _unblock(self) -> None:
        """Add one block step, or several in a row, and the jobs behind them."""
        for _ in range(self.draw(st.integers(1, 3))):
            self._rest(blocked=True)
            self._add_gate(self.now, self.stage)
        if self.draw(st.booleans()):
            self.stage += 1
            self._run(opened=self.now)

    def _add_gate(self, moment: int, stage: int) -> None:
        name = f"block step {len(self.lives)}"
        self.lives.append(
            Life(
                name,
                self.first_created,
                stage=stage,
                ended=moment,
                state="unblocked",
                block_step=True,
            )
        )

    def _retry(self, ended: list[Life]) -> None:
        """Retry one or several jobs after the end, the later ones while the first runs."""
        draw = self.draw
        self._rest(blocked=False)
        self.stage += 1
        made = self.now
        chosen = draw(st.lists(st.sampled_from(ended), min_size=1, max_size=3, unique_by=id))
        for n, old in enumerate(chosen):
            if n:
                made = draw(st.integers(made, self.now - 1 - self.blur))
            self._add_retry(old, made, "manual")
        if draw(st.booleans()):
            self._run()

    def _add_retry(self, old: Life, made: int, kind: str) -> Life:
        name = f"{old.name} again {made}"
        new = Life(name, made, replaces=old, kind=kind, step=old.step, marks=_place(old))
        self._perform(new, made + self.draw(TO_BECOME_RUNNABLE))
        self.lives.insert(next(n for n, one in enumerate(self.lives) if one is old) + 1, new)
        return new

    def _run(self, opened: int | None = None) -> None:
        """Add waves of jobs, each runnable when the one before has ended."""
        draw = self.draw
        for wave in range(draw(st.integers(1, 3))):
            behind_a_gate = wave == 0 and opened is not None
            runnable = self.now + draw(TO_BECOME_RUNNABLE if behind_a_gate else GAPS)
            wave_jobs = [self._add_job(runnable) for _ in range(draw(st.integers(1, 3)))]
            self._meanwhile(wave_jobs)

    def _add_job(self, runnable: int) -> Life:
        draw = self.draw
        name = f"job {len(self.lives)}"
        first = not self.lives
        created = self.first_created if first else draw(st.sampled_from([0, 40, runnable]))
        life = Life(name, min(created, runnable), step=name)
        life.marks = draw(
            st.sampled_from(
                [
                    {"step": {"id": uid(f"step {name}")}, "step_key": None},
                    {"step": None, "step_key": name, "group_key": "tests"},
                    {"step": None, "step_key": None},
                ]
            )
        )
        self._perform(life, runnable)
        self.lives.append(life)
        if life.state == "failed" and draw(st.booleans()) and life.ended is not None:
            self._add_retry(life, life.ended + draw(st.integers(1, 900)), "automatic")
        return life

    def _perform(self, life: Life, runnable: int) -> None:
        draw = self.draw
        if not self.whole and runnable % SECOND == 0:
            runnable += 1  # a whole second by chance is taken for one of an old payload
        life.stage, life.runnable = self.stage, runnable
        life.state = draw(st.sampled_from(["passed", "passed", "failed", "canceled", "expired"]))
        wait = draw(WAITS)
        if life.state != "expired":
            life.started = runnable + wait
        life.ended = runnable + wait + draw(LENGTHS) + 2 * self.blur
        self.now = max(self.now, life.ended)

    def _meanwhile(self, running: list[Life]) -> None:
        """Unblock a step or retry a job while another one runs: no pause, no stage."""
        draw = self.draw
        one = draw(st.sampled_from(running))
        begin, end = (one.runnable or 0) + 1 + self.blur, (one.ended or 0) - 1 - self.blur
        if begin >= end or not draw(st.booleans()):
            return
        moment = draw(st.integers(begin, end))
        old = [life for life in self.lives if self._is_retryable(life) and life.ended < moment]
        if old and draw(st.booleans()):
            self._add_retry(draw(st.sampled_from(old)), moment, "manual")
        else:
            self._add_gate(moment, self.stage)


def _place(old: Life) -> dict[str, Any]:
    return {key: old.marks.get(key) for key in ("step", "step_key", "group_key")}


@st.composite
def timelines(draw: Any) -> Timeline:
    return _Generator(draw).play()
