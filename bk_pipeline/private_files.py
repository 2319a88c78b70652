"""Creates local files and folders that only their owner can read.

They hold builds and the names of their authors. `BK_PIPELINE_UMASK` is applied when a file is
created, so other users can never read it; the process's own umask applies too. Existing files are
left alone; `bk-pipeline doctor` reports them.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from shlex import quote

PRIVATE = 0o077
RIGHTS = (("r", 4), ("w", 2), ("x", 1))
_umask = PRIVATE


def use_umask(umask: int) -> None:
    """Set the umask of the files and folders that this process creates from now on."""
    global _umask  # noqa: PLW0603  # as a process's umask is
    _umask = umask


def file_mode() -> int:
    """Return the mode of new files."""
    return 0o666 & ~_umask


def make_folder(path: Path) -> None:
    """Create the folder and its missing parents."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o777 & ~_umask, exist_ok=True)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


def make_file(path: Path) -> None:
    """Create an empty file, for another library to write to, unless it exists."""
    if path.exists():
        return
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, file_mode()))


def shared_with_others(path: Path) -> bool:
    """Whether other users have permissions on `path` that the umask would remove."""
    return bool(path.stat().st_mode & _umask & 0o777)


def tightening(path: Path) -> str:
    """The command that gives `path`, and all that is below it, no more rights than new files have."""
    rights = ",".join(
        f"{who}-{''.join(letter for letter, bit in RIGHTS if _umask >> shift & bit)}"
        for who, shift in (("u", 6), ("g", 3), ("o", 0))
        if _umask >> shift & 7
    )
    return f"chmod -R {rights} {quote(str(path))}"
