"""The quota of several processes of one host: its state in a file that all of them lock.

Each run of Dagster's is a process, and so is the sensor; all use the same token. Whoever
asks or answers takes the lock, reads what the others left, and writes it back: some tenths
of a millisecond, beside requests of which there are 200 a minute at most.

A process that dies leaves its tickets behind. They count as under way until no answer to
them can tell anything of a window that still lasts. Moments are those of the host's own
monotonic clock, which all its processes share; a file from before a restart, or from another
host, holds moments that cannot be, and they are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from bk_pipeline.buildkite.quota import (
    OWNERS,
    RESERVE,
    ROUNDING_S,
    WINDOW_S,
    Family,
    Quota,
    families,
)
from bk_pipeline.errors import RetryableError, StorageError
from bk_pipeline.http.retry import LONGEST_WAIT_S
from bk_pipeline.private_files import file_mode, make_file, make_folder

# After this, a request without an answer is taken for that of a process that died.
LEASE_S = 2 * WINDOW_S
LOCK_PATIENCE_S = 60.0
FURTHEST_S = LONGEST_WAIT_S + ROUNDING_S


class _Known(msgspec.Struct):
    """What is known of one family; see `Family`."""

    limit: int | None
    reports: list[tuple[float, int]]
    lost: list[float]
    asking: int | None
    absent: bool


class _State(msgspec.Struct):
    """The file. `departed` maps the tickets under way to when they were given."""

    issued: int
    blocked_until: float
    departed: dict[int, float]
    known: dict[str, _Known]


_decode = msgspec.json.Decoder(_State).decode


class SharedQuota(Quota):
    """A `Quota` that all processes with the same `path` keep together.

    What is left in reserve is each object's own affair: those who ask little and cannot wait
    may leave less than the others.
    """

    def __init__(self, path: Path, *, reserve: float = RESERVE, owners: int = OWNERS) -> None:
        super().__init__(families=families(reserve, owners))
        self._path = path
        self._lock = FileLock(path.with_suffix(".lock"), timeout=LOCK_PATIENCE_S, mode=file_mode())
        self._depth = 0
        self._departed: dict[int, float] = {}
        self._ours: set[int] = set()

    @property
    def elsewhere(self) -> int:
        return len(self._departed.keys() - self._ours)

    @contextmanager
    def held(self, now: float) -> Iterator[None]:
        """A block in which no thread and no process looks at the quota or changes it.

        Raises:
            StorageError: The file cannot be used.
            RetryableError: Another process has held the lock for a minute.
        """
        with self.changed:
            if self._depth:
                yield
                return
            try:
                make_folder(self._path.parent)
                with self._lock:
                    self._depth = 1
                    self._read(now)
                    yield
                    self._write()
            except Timeout as exc:
                raise RetryableError(
                    f"Another process has locked {self._path} for {LOCK_PATIENCE_S:.0f} s. Try "
                    "again; if it stays so, end that process."
                ) from exc
            except OSError as exc:
                raise StorageError(
                    f"The quota that processes share cannot be kept in {self._path}: {exc}. Make "
                    "the folder writable, or set BK_PIPELINE_DATA_DIR to another."
                ) from exc
            finally:
                self._depth = 0

    def _depart(self, number: int, now: float) -> None:
        self._departed[number] = now
        self._ours.add(number)
        self.under_way = len(self._departed)

    def _arrive(self, number: int) -> None:
        self._departed.pop(number, None)
        self._ours.discard(number)
        self.under_way = len(self._departed)

    def _read(self, now: float) -> None:
        try:
            state = _decode(self._path.read_bytes())
        except (FileNotFoundError, msgspec.DecodeError):
            # Nobody was here before, or died while writing: one request asks anew.
            state = _State(0, 0.0, {}, {})
        self.issued = max(state.issued, self.issued)
        self.blocked_until = state.blocked_until if state.blocked_until <= now + FURTHEST_S else 0.0
        self._departed = {
            number: at
            for number, at in state.departed.items()
            if now - LEASE_S < at <= now + FURTHEST_S
        }
        self._ours &= self._departed.keys()
        self.under_way = len(self._departed)
        for family in self.families:
            if known := state.known.get(family.name):
                self._take_over(family, known, now)

    def _take_over(self, family: Family, known: _Known, now: float) -> None:
        family.limit = known.limit
        family.reports = [one for one in known.reports if one[0] <= now + FURTHEST_S]
        family.lost = [over for over in known.lost if over <= now + FURTHEST_S]
        family.asking = known.asking if known.asking in self._departed else None
        family.absent = known.absent

    def _write(self) -> None:
        known = {
            one.name: _Known(one.limit, one.reports, one.lost, one.asking, one.absent)
            for one in self.families
        }
        state = _State(self.issued, self.blocked_until, self._departed, known)
        make_file(self._path)
        self._path.write_bytes(msgspec.json.encode(state))
