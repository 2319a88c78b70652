"""Share the quota between the processes of one host, through a locked file.

Dagster's runs and its sensor are separate processes that use the same token. Each operation
takes the lock, reads the state and writes it back. That takes some tenths of a millisecond,
for at most 200 requests a minute.

A process that dies leaves its permits behind. They count as under way until their responses
could no longer concern the current window. Times are seconds of the host's monotonic clock,
which its processes share. Impossible times, in a file from before a reboot or from another
host, are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from bk_pipeline.buildkite.quota import (
    ORGANIZATION_RESERVE,
    ROUNDING_S,
    USER_RESERVE,
    WINDOW_S,
    Family,
    Quota,
    families,
)
from bk_pipeline.errors import RetryableError, StorageError
from bk_pipeline.http.retry import LONGEST_WAIT_S
from bk_pipeline.private_files import file_mode, make_file, make_folder

# A request without a response for this long is assumed to belong to a process that died.
LEASE_S = 2 * WINDOW_S
LOCK_TIMEOUT_S = 60.0
FURTHEST_S = LONGEST_WAIT_S + ROUNDING_S


class _Known(msgspec.Struct):
    """The stored state of one family; see `Family`. `asking` is its `probe`."""

    limit: int | None
    reports: list[tuple[float, int]]
    lost: list[float]
    asking: int | None
    absent: bool


class _State(msgspec.Struct):
    """The file's content. `departed` maps the permits under way to their time of issue.

    A file of an older version has no `recent`.
    """

    issued: int
    blocked_until: float
    departed: dict[int, float]
    known: dict[str, _Known]
    recent: list[float] = []


_decode = msgspec.json.Decoder(_State).decode


class SharedQuota(Quota):
    """A `Quota` that is shared by all processes with the same `path`.

    The reserve is not shared: a process with few but urgent requests can have a smaller one, and
    one whose requests can wait is in the background.

    Args:
        path: The file; its lock is next to it.
        reserve: See `families`.
        user_reserve: See `families`.
        background: See `Quota`.
    """

    def __init__(
        self,
        path: Path,
        *,
        reserve: float = ORGANIZATION_RESERVE,
        user_reserve: int = USER_RESERVE,
        background: float | None = None,
    ) -> None:
        super().__init__(families=families(reserve, user_reserve), background=background)
        self._path = path
        self._lock = FileLock(path.with_suffix(".lock"), timeout=LOCK_TIMEOUT_S, mode=file_mode())
        self._depth = 0
        self._departed: dict[int, float] = {}
        self._ours: set[int] = set()

    @property
    def under_way_elsewhere(self) -> int:
        """Number of requests under way in other processes."""
        return len(self._departed.keys() - self._ours)

    @contextmanager
    def locked(self, now: float) -> Iterator[None]:
        """Lock the quota against other threads and processes within the block.

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
                    f"Another process has locked {self._path} for {LOCK_TIMEOUT_S:.0f} s. Try "
                    "again; if that persists, end that process."
                ) from exc
            except OSError as exc:
                raise StorageError(
                    f"The shared quota cannot be stored in {self._path}: {exc}. Make the folder "
                    "writable, or set BK_PIPELINE_DATA_DIR to another one."
                ) from exc
            finally:
                self._depth = 0

    def _add_under_way(self, number: int, now: float) -> None:
        self._departed[number] = now
        self._ours.add(number)
        self.under_way = len(self._departed)

    def _remove_under_way(self, number: int) -> None:
        self._departed.pop(number, None)
        self._ours.discard(number)
        self.under_way = len(self._departed)

    def _read(self, now: float) -> None:
        try:
            state = _decode(self._path.read_bytes())
        except (FileNotFoundError, msgspec.DecodeError):
            # First use, or a process died while writing: start with one probe request.
            state = _State(0, 0.0, {}, {})
        self.issued = max(state.issued, self.issued)
        self.blocked_until = state.blocked_until if state.blocked_until <= now + FURTHEST_S else 0.0
        self._departed = {
            number: at
            for number, at in state.departed.items()
            if now - LEASE_S < at <= now + FURTHEST_S
        }
        self.recent = [at for at in state.recent if now - WINDOW_S < at <= now + FURTHEST_S]
        self._ours &= self._departed.keys()
        self.under_way = len(self._departed)
        for family in self.families:
            if known := state.known.get(family.name):
                self._take_over(family, known, now)

    def _take_over(self, family: Family, known: _Known, now: float) -> None:
        family.limit = known.limit
        family.reports = [one for one in known.reports if one[0] <= now + FURTHEST_S]
        family.lost = [over for over in known.lost if over <= now + FURTHEST_S]
        family.probe = known.asking if known.asking in self._departed else None
        family.absent = known.absent

    def _write(self) -> None:
        known = {
            one.name: _Known(one.limit, one.reports, one.lost, one.probe, one.absent)
            for one in self.families
        }
        state = _State(self.issued, self.blocked_until, self._departed, known, self.recent)
        make_file(self._path)
        self._path.write_bytes(msgspec.json.encode(state))
