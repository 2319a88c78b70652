"""The bytes of logs and artifacts that may be read in a day, shared by the processes of a host.

Requests are limited by a quota in the background (`quota.py`). Bytes are counted after they have
arrived, so a body that is being read when a day's bytes run out is read to its end.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from threading import Lock

import msgspec
from filelock import FileLock, Timeout

from bk_pipeline.clock import Clock
from bk_pipeline.errors import BudgetSpent, RetryableError, StorageError
from bk_pipeline.private_files import file_mode, make_file, make_folder

LOCK_TIMEOUT_S = 60.0
# Bytes that are counted in memory before the file is written.
COUNTED_BYTES = 4 * 1024 * 1024


class _Spent(msgspec.Struct):
    """The file's content: a UTC day, and the bytes that were read on it."""

    day: str
    bytes: int


class ByteBudget:
    """Counts the bytes that are read, and says when a day's are used up. Thread-safe.

    Args:
        path: The file with the count; its lock is next to it.
        bytes_per_day: Per UTC day; 0 allows none.
        clock: Tells the day.
    """

    def __init__(self, path: Path, *, bytes_per_day: int, clock: Clock) -> None:
        self._path = path
        self._bytes_per_day = bytes_per_day
        self._clock = clock
        self._mutex = Lock()
        self._lock = FileLock(path.with_suffix(".lock"), timeout=LOCK_TIMEOUT_S, mode=file_mode())
        self._unwritten = 0

    @property
    def left(self) -> int:
        """The bytes that remain today; never negative."""
        return max(self._bytes_per_day - self._update().bytes, 0)

    def check(self) -> None:
        """Raise an error if no bytes remain today.

        Raises:
            BudgetSpent: It has `retry_in_s`, the time until the next UTC day.
        """
        if self.left:
            return
        now = self._clock.now()
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        raise BudgetSpent(
            f"The {self._bytes_per_day:,} bytes of logs and artifacts that a day may take are used "
            "up. The rest can be read from the next UTC day on, or with a larger budget.",
            retry_in_s=(midnight - now).total_seconds(),
        )

    def spend(self, count: int) -> None:
        """Count bytes that have been read; `flush` makes them known to other processes."""
        with self._mutex:
            self._unwritten += count
            due = self._unwritten >= COUNTED_BYTES
        if due:
            self.flush()

    def flush(self) -> None:
        """Write what has been counted to the file."""
        self._update()

    def _update(self) -> _Spent:
        """What was spent today, including what this process had not written yet."""
        today = self._clock.now().date().isoformat()
        with self._mutex:
            try:
                make_folder(self._path.parent)
                with self._lock:
                    spent = self._read(today)
                    if self._unwritten:
                        spent.bytes += self._unwritten
                        make_file(self._path)
                        self._path.write_bytes(msgspec.json.encode(spent))
                        self._unwritten = 0
                    return spent
            except Timeout as exc:
                raise RetryableError(
                    f"Another process has locked {self._path} for {LOCK_TIMEOUT_S:.0f} s. Try "
                    "again; if that persists, end that process."
                ) from exc
            except OSError as exc:
                raise StorageError(
                    f"The bytes read today cannot be stored in {self._path}: {exc}. Make the "
                    "folder writable, or set BK_PIPELINE_DATA_DIR to another one."
                ) from exc

    def _read(self, today: str) -> _Spent:
        try:
            spent = msgspec.json.decode(self._path.read_bytes(), type=_Spent)
        except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
            return _Spent(today, 0)
        return spent if spent.day == today else _Spent(today, 0)
