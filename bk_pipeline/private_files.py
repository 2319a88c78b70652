"""Local files and folders that are their owner's alone: builds are in them, and who made them.

A umask of our own (`BK_PIPELINE_UMASK`) is applied as each is made, so that there is no moment
in which others can read it. The process's own umask counts too. What is there already is left
as it is; `bk-pipeline doctor` tells.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

PRIVATE = 0o077
_umask = PRIVATE


def use_umask(umask: int) -> None:
    """Make what is made from now on by this process with `umask`."""
    global _umask  # noqa: PLW0603  # as a process's umask is
    _umask = umask


def file_mode() -> int:
    """The mode of new files."""
    return 0o666 & ~_umask


def make_folder(path: Path) -> None:
    """Make the folder, and those above it that are missing."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o777 & ~_umask, exist_ok=True)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


def make_file(path: Path) -> None:
    """Make an empty file, for another program to write to; one that is there stays."""
    if path.exists():
        return
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, file_mode()))


def shared_with_others(path: Path) -> bool:
    """Whether others may do with the file or folder what they may not with new ones."""
    return bool(path.stat().st_mode & _umask & 0o777)
