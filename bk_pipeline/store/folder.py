"""A folder on a disk or in an object store, and the few things we do with files in it.

Files are immutable once they are there: each is written under a temporary name and moved
to its own, so that a reader never meets half a file and a killed run leaves none.

A file that cannot be read although the storage gives all of its bytes is damaged. It is moved
aside, and never stands in the way again; `DamagedFile` says so. Pages carry checksums.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

from bk_pipeline.errors import DamagedFile, StorageError
from bk_pipeline.private_files import make_file, make_folder

TEMPORARY = ".tmp"
# Left by a process that was killed, where nothing has been written for so long.
TEMPORARY_FOR = timedelta(days=1)
SWEPT = "swept.json"
# Damaged files are here, under their own paths.
QUARANTINED = "quarantined"
# What reading a damaged file raises, besides OSError.
SPOILED = (pa.ArrowException, KeyError, UnicodeDecodeError, msgspec.MsgspecError)
# Where the span parts are.
SPANS = "spans"
# In the footer of a file that was merged of others, whose names it holds.
REPLACES = b"bk_pipeline.replaces"
# In the words of the stores' clients; pyarrow has one class of errors for most of them.
DENIED = re.compile(
    r"ACCESS_DENIED|AccessDenied|access denied|permission denied|forbidden|unauthori[sz]ed|"
    r"unauthenticated|\b40[13]\b|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|"
    r"no (valid )?credential|anonymous caller",
    re.IGNORECASE,
)
# Where each store's client finds them.
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the machine's role",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or the machine's service account",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS, or the machine's service account",
    "abfs": "AZURE_STORAGE_ACCOUNT and its key, or the machine's identity",
    "abfss": "AZURE_STORAGE_ACCOUNT and its key, or the machine's identity",
}
# How the names of files begin with which `doctor` tries whether it can write.
PROBE = ".bk-pipeline-doctor-"
# What pyarrow names the column of a row's path.
PATH = "__filename"


class Folder:
    """The data directory, given as a path or as a URI that `pyarrow.fs` knows (s3://…, gs://…).

    `shown` is the same without what may be a secret in it.
    """

    # What `scan` names the column in which a row's file stands.
    FILE = "file"

    def __init__(self, location: str) -> None:
        self.shown, self._secrets = _shown(location)
        with self._explained("open", ""):
            if "://" in location:
                self._fs, self._root = fs.FileSystem.from_uri(location)
            else:
                self._fs, self._root = fs.LocalFileSystem(), str(Path(location).absolute())
        self._is_local = isinstance(self._fs, fs.LocalFileSystem)
        self._replaced: dict[str, list[str]] = {}

    def names(self, folder: str, *, suffix: str = "") -> list[str]:
        """The files in `folder`, sorted by name; none if it does not exist."""
        return list(self.sizes(folder, suffix=suffix))

    def sizes(self, folder: str, *, suffix: str = "") -> dict[str, int]:
        """The files in `folder` with their bytes, sorted by name; none if it does not exist."""
        selector = fs.FileSelector(self._path(folder), allow_not_found=True)
        with self._explained("list", folder):
            found = self._fs.get_file_info(selector)
        for one in found:
            if suffix and one.type is fs.FileType.Directory and one.base_name.endswith(suffix):
                raise self.damaged(f"{folder}/{one.base_name}", "it is a folder")
        return {
            one.base_name: one.size
            for one in sorted(found, key=lambda one: one.base_name)
            if one.type is fs.FileType.File
            and one.base_name.endswith(suffix)
            and not one.base_name.endswith(TEMPORARY)
        }

    def names_below(self, folder: str, *, suffix: str) -> list[str]:
        """The files in `folder` and in what is below it, as paths from there; in one request."""
        selector = fs.FileSelector(self._path(folder), allow_not_found=True, recursive=True)
        with self._explained("list", folder):
            found = self._fs.get_file_info(selector)
        prefix = len(self._path(folder)) + 1
        return sorted(
            one.path[prefix:]
            for one in found
            if one.type is fs.FileType.File and one.path.endswith(suffix)
        )

    def folders(self, folder: str) -> list[str]:
        """The folders in `folder`, sorted by name; none if it does not exist."""
        selector = fs.FileSelector(self._path(folder), allow_not_found=True)
        with self._explained("list", folder):
            found = self._fs.get_file_info(selector)
        return sorted(one.base_name for one in found if one.type is fs.FileType.Directory)

    @contextmanager
    def parquet_writer(self, name: str, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
        """A writer whose file appears as `name` when the block ends well, and not otherwise."""
        temporary = f"{name}.{uuid4().hex}{TEMPORARY}"
        with self._explained("write", name):
            self._prepare(temporary)
            try:
                with pq.ParquetWriter(
                    self._path(temporary),
                    schema,
                    filesystem=self._fs,
                    compression="zstd",
                    compression_level=1,
                    write_page_checksum=True,
                ) as writer:
                    yield writer
                self._put(temporary, name)
            except BaseException:
                self._drop(temporary)
                raise

    @contextmanager
    def parquet_file(self, name: str) -> Iterator[pq.ParquetFile]:
        """The Parquet file `name`, open for reading.

        Raises:
            DamagedFile: It cannot be read, or what the block reads in it is not there.
        """
        try:
            with pq.ParquetFile(
                self._path(name), filesystem=self._fs, page_checksum_verification=True
            ) as file:
                yield file
        except (OSError, *SPOILED) as exc:
            outside = isinstance(exc, OSError | pa.ArrowException)
            if not isinstance(exc, FileNotFoundError) and (not outside or self._is_damaged(name)):
                raise self.damaged(name, str(exc)) from exc
            with self._explained("read", name):
                raise

    def scan(self, names: Sequence[str], schema: pa.Schema, wanted: pc.Expression) -> pa.Table:
        """The rows of the Parquet files `names` that are `wanted`, and in `FILE` their file's.

        Row groups that cannot hold any are passed over; a column of `schema` is null where
        a file lacks it.
        """
        paths = {self._path(name): name for name in names}
        try:
            table = self._scanned(list(paths), schema, wanted)
        except (OSError, *SPOILED):
            # Read-only, and for one question: what is damaged is left to the runs to move aside.
            whole = [path for path, name in paths.items() if not self._is_damaged(name)]
            with self._explained("read", ""):
                table = self._scanned(whole, schema, wanted)
        of_rows = pa.array([paths[path] for path in table[PATH].to_pylist()], pa.string())
        return table.drop_columns(PATH).append_column(self.FILE, of_rows)

    def _scanned(self, paths: Sequence[str], schema: pa.Schema, wanted: pc.Expression) -> pa.Table:
        files = ds.dataset(paths, schema=schema, format="parquet", filesystem=self._fs)
        return files.to_table(columns=[*schema.names, PATH], filter=wanted)

    def read(self, name: str) -> bytes | None:
        """The bytes of `name`; None if there is no such file.

        Raises:
            DamagedFile: It is a folder.
        """
        with self._explained("read", name):
            try:
                with self._fs.open_input_stream(self._path(name)) as stream:
                    return bytes(stream.read())
            except FileNotFoundError:
                return None
            except OSError:
                if self._is_folder(name):
                    raise self.damaged(name, "it is a folder") from None
                raise

    def damaged(self, name: str, detail: str) -> DamagedFile:
        """The error for `name`, which has been moved aside: nobody meets it again."""
        aside = f"{QUARANTINED}/{name}.{uuid4().hex[:8]}"
        with self._explained("move aside", name), suppress(FileNotFoundError):
            self._make_folder_of(aside)
            self._fs.move(self._path(name), self._path(aside))
        return DamagedFile(
            f"{name} in {self.shown} is damaged ({self._redacted(detail)}) and was moved to "
            f"{aside}. What it held is fetched or made again.",
            name=name,
        )

    def quarantined(self, folder: str) -> list[str]:
        """The names under which files of `folder` were moved aside."""
        selector = fs.FileSelector(self._path(f"{QUARANTINED}/{folder}"), allow_not_found=True)
        with self._explained("list", f"{QUARANTINED}/{folder}"):
            return sorted(one.base_name for one in self._fs.get_file_info(selector))

    def write(self, name: str, content: bytes) -> None:
        """Put `content` in place of whatever `name` held."""
        temporary = f"{name}.{uuid4().hex}{TEMPORARY}"
        with self._explained("write", name):
            self._prepare(temporary)
            try:
                with self._fs.open_output_stream(self._path(temporary)) as stream:
                    stream.write(content)
                self._put(temporary, name)
            except BaseException:
                self._drop(temporary)
                raise

    def delete(self, name: str) -> None:
        """Have no file `name`; that somebody else deleted it first is as well."""
        with self._explained("delete", name), suppress(FileNotFoundError):
            self._fs.delete_file(self._path(name))

    def replaced(self, name: str) -> list[str]:
        """The names that the Parquet file `name` says it replaces. Read once: no file changes."""
        if name not in self._replaced:
            with self.parquet_file(name) as file:
                content = (file.metadata.metadata or {}).get(REPLACES)
                self._replaced[name] = (
                    msgspec.json.decode(content, type=list[str]) if content else []
                )
        return self._replaced[name]

    def drop_old_temporaries(self, *, now: datetime) -> int:
        """How many temporary files of killed processes were deleted; once a day is enough.

        Those are deleted that nobody has written to for `TEMPORARY_FOR`.
        """
        with self._explained("list", SWEPT):
            marker = self._fs.get_file_info(self._path(SWEPT))
        before = now - TEMPORARY_FOR
        if marker.type is fs.FileType.File and marker.mtime > before:
            return 0
        self.write(SWEPT, b"{}")
        old = [
            name
            for name, written_at in self._temporaries()
            if written_at is not None and written_at < before
        ]
        for name in old:
            self.delete(name)
        return len(old)

    def _temporaries(self) -> Iterator[tuple[str, datetime | None]]:
        selector = fs.FileSelector(self._root, allow_not_found=True, recursive=True)
        with self._explained("list", ""):
            found = self._fs.get_file_info(selector)
        for one in found:
            ours = one.base_name.endswith(TEMPORARY) or one.base_name.startswith(PROBE)
            if one.type is fs.FileType.File and ours:
                yield one.path[len(self._root) + 1 :], one.mtime

    def _put(self, temporary: str, name: str) -> None:
        """Give the file `temporary` its name; a folder that has the name is moved aside."""
        if self._is_folder(name):
            self.damaged(name, "it is a folder")
        self._fs.move(self._path(temporary), self._path(name))

    def _is_folder(self, name: str) -> bool:
        return bool(self._fs.get_file_info(self._path(name)).type is fs.FileType.Directory)

    def _is_damaged(self, name: str) -> bool:
        """Whether the Parquet file is at fault, and not the storage: its bytes can all be had.

        Raises:
            StorageError: They cannot.
        """
        if self._is_folder(name):
            return True
        content = self.read(name)
        if content is None:
            return False
        try:
            with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as file:
                for group in range(file.num_row_groups):
                    file.read_row_group(group)
        except (OSError, *SPOILED):
            return True
        return False

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _prepare(self, name: str) -> None:
        """Make the folder of a file to be written, and on a disk the file, for its owner alone."""
        self._make_folder_of(name)
        if self._is_local:
            make_file(Path(self._path(name)))

    def _make_folder_of(self, name: str) -> None:
        folder = self._path(name).rpartition("/")[0]
        if self._is_local:
            make_folder(Path(folder))
        else:
            self._fs.create_dir(folder, recursive=True)

    def _drop(self, name: str) -> None:
        # It was never made, or the disk is gone: the first error is the one to tell.
        with suppress(OSError):
            self._fs.delete_file(self._path(name))

    @contextmanager
    def _explained(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as exc:
            raise StorageError(
                f"Cannot {verb} {name or 'the data directory'} in {self.shown}: "
                f"{self._redacted(str(exc))}. {_remedy(exc, self.shown)}"
            ) from (None if self._secrets else exc)

    def _redacted(self, words: str) -> str:
        for secret in self._secrets:
            words = words.replace(secret, "***")
        return words


def _remedy(exc: Exception, shown: str) -> str:
    """What to do about `exc`: a store that denies access does not lack room."""
    scheme, _, _ = shown.partition("://")
    denied = isinstance(exc, PermissionError) or DENIED.search(str(exc))
    if denied and scheme in CREDENTIALS:
        return (
            f"Check the credentials, {CREDENTIALS[scheme]}: they must be valid and may list, read, "
            "write and delete there."
        )
    if denied:
        return "Check its permissions, or set BK_PIPELINE_DATA_DIR to another place."
    return "Make room, or set BK_PIPELINE_DATA_DIR to another place, and run again."


def _shown(location: str) -> tuple[str, list[str]]:
    """A path or URI as people may see it, and what must not be seen of it."""
    if "://" not in location:
        return location, []
    scheme, _, rest = location.partition("://")
    place, _, query = rest.partition("?")
    credentials, _, place = place.rpartition("@")
    secrets = [one for one in (query, *credentials.split(":")) if one]
    return f"{scheme}://{place}", secrets
