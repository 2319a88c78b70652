"""Where things are kept: can the data directory be written, can the ledger be opened?"""

from __future__ import annotations

import os
import shutil
from getpass import getuser
from pathlib import Path
from uuid import uuid4

from bk_pipeline.doctor.findings import Answer, fine, remark
from bk_pipeline.doctor.installation import Installation
from bk_pipeline.errors import NoLedger, StorageError
from bk_pipeline.ledger.opening import SQLITE
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.private_files import shared_with_others
from bk_pipeline.settings import Settings
from bk_pipeline.spans.text import counted
from bk_pipeline.store.folder import PROBE, QUARANTINED, Folder

CONTENT = b"bk-pipeline doctor"
BYTES_PER_GB = 1_000_000_000
LITTLE_GB = 2.0


def storage(it: Installation) -> Answer:
    """Whether a file can be written to the data directory, read, and deleted."""
    where = it.settings.storage
    if "://" in where:
        words = f"{_probed(where)}: a file was written, read and deleted."
        damaged = _damaged_shown(Folder(where))
        return remark(f"{words} {damaged}") if damaged else fine(words)
    folder = _writable(Path(where))
    made = "" if folder == Path(where) else "; the first run makes the folder"
    free_gb = shutil.disk_usage(folder).free / BYTES_PER_GB
    words = f"{where} can be written{made}; {free_gb:,.1f} GB free."
    if damaged := _damaged_shown(Folder(where)):
        return remark(f"{words} {damaged}")
    if shared_with_others(folder) and folder == Path(where):
        return remark(
            f"{words} Others can look into it: chmod -R go-rwx {where} leaves it to you alone, or "
            "BK_PIPELINE_UMASK says who may (027: your group)."
        )
    if free_gb < LITTLE_GB:
        return remark(f"{words} A busy day takes some 100 MB: make room before a long backfill.")
    return fine(words)


def _damaged_shown(folder: Folder) -> str:
    found = folder.names_below(QUARANTINED, suffix="")
    if not found:
        return ""
    count = f"{len(found)} damaged file{'' if len(found) == 1 else 's'}"
    return (
        f"{count} in {folder.shown}/{QUARANTINED}, like {found[0]}: what they held is fetched or "
        "made again when their day is materialized. Check the disk, and delete them."
    )


def ledger(it: Installation) -> Answer:
    """Whether the ledger can be opened; there need not be one yet."""
    try:
        with Ledger.from_settings(it.settings, clock=it.clock, create=False) as book:
            known = counted(len(book.destinations()), "destination")
            return fine(f"{book.where}; it knows of {known}.")
    except NoLedger:
        pass
    path = _ledger_file(it.settings)
    if path is None:
        return fine("the database can be reached; the first delivery makes the tables.")
    _writable(path.parent)
    return fine(f"{path}: the first delivery makes it.")


def _ledger_file(settings: Settings) -> Path | None:
    if settings.ledger_url is None:
        return settings.ledger_path
    url = settings.ledger_url.get_secret_value()
    return Path(url.removeprefix(SQLITE)).expanduser() if url.startswith(SQLITE) else None


def _probed(location: str) -> str:
    """The location as people may see it, after a file there came and went.

    Raises:
        StorageError: It did not.
    """
    folder = Folder(location)
    name = f"{PROBE}{uuid4().hex}"
    folder.write(name, CONTENT)
    found = folder.read(name)
    folder.delete(name)
    if found != CONTENT:
        raise StorageError(
            f"{folder.shown} gave back something else than was written there. Check the disk, or "
            "set BK_PIPELINE_DATA_DIR to another place."
        )
    return folder.shown


def _writable(path: Path) -> Path:
    """`path`, or the folder above it that is there; a file came and went in it.

    Raises:
        StorageError: It did not.
    """
    folder = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise StorageError(
            f"{path} cannot be written: {folder} is no folder that {getuser()} may write to. "
            "Change that, or set BK_PIPELINE_DATA_DIR to another place."
        )
    _probed(str(folder))
    return folder
