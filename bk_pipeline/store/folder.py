"""The data directory, on a local disk or in an object store.

Files are immutable: each is written under a temporary name and then renamed, so that a reader
never sees half a file and a killed run leaves none.

If the storage returns all bytes of a file and the file still cannot be read (Parquet pages carry
checksums), the file is damaged. It is moved to the quarantine folder and reported by a
`DamagedFile` error; the same call then succeeds without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
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

TEMPORARY_SUFFIX = ".tmp"
# A temporary file that was not written to for this long was left by a killed process.
TEMPORARY_MAX_AGE = timedelta(days=1)
# Its modification time is when temporary files were last deleted.
CLEANUP_MARKER = "swept.json"
# Damaged files are moved here and keep their path.
QUARANTINED = "quarantined"
# What reading a damaged file raises besides OSError.
READ_ERRORS = (pa.ArrowException, KeyError, UnicodeDecodeError, msgspec.MsgspecError)
# Folder of the span parts.
SPANS = "spans"
DETAILS = "details"
LOGS = "logs"
# Footer key of a merged file: the names of the files it replaces.
REPLACES = b"bk_pipeline.replaces"
# Matches the messages of the object stores' clients: pyarrow raises most as one class.
ACCESS_DENIED = re.compile(
    r"ACCESS_DENIED|AccessDenied|access denied|permission denied|forbidden|unauthori[sz]ed|"
    r"unauthenticated|\b40[13]\b|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|"
    r"no (valid )?credential|anonymous caller",
    re.IGNORECASE,
)
# By URI scheme, where the client looks for its credentials.
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the machine's role",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or the machine's service account",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS, or the machine's service account",
    "abfs": "AZURE_STORAGE_ACCOUNT and its key, or the machine's identity",
    "abfss": "AZURE_STORAGE_ACCOUNT and its key, or the machine's identity",
}
# Prefix of the files that `doctor` writes to test for write access.
PROBE_PREFIX = ".bk-pipeline-doctor-"
# pyarrow's name for the column that holds the path of a row's file.
FILENAME_COLUMN = "__filename"


class Folder:
    """The data directory. Names of files and folders are relative to it.

    Args:
        location: A path, or a URI that `pyarrow.fs` supports (s3://…, gs://…).

    Attributes:
        redacted_location: The location without anything that may be secret.
    """

    # `scan` puts the name of a row's file in this column.
    FILE_COLUMN = "file"

    def __init__(self, location: str) -> None:
        self.redacted_location, self._secrets = _redact(location)
        with self._translated_errors("open", ""):
            if "://" in location:
                self._fs, self._root = fs.FileSystem.from_uri(location)
            else:
                self._fs, self._root = fs.LocalFileSystem(), str(Path(location).absolute())
        self._is_local = isinstance(self._fs, fs.LocalFileSystem)
        self._replaces: dict[str, list[str]] = {}

    def names(self, folder: str, *, suffix: str = "") -> list[str]:
        """Return the sorted names of the files in `folder`; empty if it does not exist."""
        return list(self.sizes(folder, suffix=suffix))

    def sizes(self, folder: str, *, suffix: str = "") -> dict[str, int]:
        """Return size in bytes by file name, sorted by name; empty if `folder` does not exist."""
        selector = fs.FileSelector(self._path(folder), allow_not_found=True)
        with self._translated_errors("list", folder):
            found = self._fs.get_file_info(selector)
        for one in found:
            if suffix and one.type is fs.FileType.Directory and one.base_name.endswith(suffix):
                raise self.quarantine(f"{folder}/{one.base_name}", "it is a folder")
        return {
            one.base_name: one.size
            for one in sorted(found, key=lambda one: one.base_name)
            if one.type is fs.FileType.File
            and one.base_name.endswith(suffix)
            and not one.base_name.endswith(TEMPORARY_SUFFIX)
        }

    def names_recursive(self, folder: str, *, suffix: str) -> list[str]:
        """Return the sorted paths, relative to `folder`, of the files at any depth below it."""
        selector = fs.FileSelector(self._path(folder), allow_not_found=True, recursive=True)
        with self._translated_errors("list", folder):
            found = self._fs.get_file_info(selector)
        prefix = len(self._path(folder)) + 1
        return sorted(
            one.path[prefix:]
            for one in found
            if one.type is fs.FileType.File and one.path.endswith(suffix)
        )

    def folders(self, folder: str) -> list[str]:
        """Return the sorted names of the subfolders; empty if `folder` does not exist."""
        selector = fs.FileSelector(self._path(folder), allow_not_found=True)
        with self._translated_errors("list", folder):
            found = self._fs.get_file_info(selector)
        return sorted(one.base_name for one in found if one.type is fs.FileType.Directory)

    @contextmanager
    def parquet_writer(self, name: str, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
        """Write a Parquet file that becomes visible as `name` only if the block succeeds."""
        with (
            self._placed(name) as temporary,
            pq.ParquetWriter(
                self._path(temporary),
                schema,
                filesystem=self._fs,
                compression="zstd",
                compression_level=1,
                write_page_checksum=True,
            ) as writer,
        ):
            yield writer

    @contextmanager
    def gzip_writer(self, name: str) -> Iterator[pa.NativeFile]:
        """Write a file packed by gzip that becomes visible as `name` only if the block succeeds."""
        with (
            self._placed(name) as temporary,
            self._fs.open_output_stream(self._path(temporary), compression="gzip") as stream,
        ):
            yield stream

    @contextmanager
    def _placed(self, name: str) -> Iterator[str]:
        """Yield a temporary name, whose file is renamed to `name` only if the block succeeds."""
        temporary = f"{name}.{uuid4().hex}{TEMPORARY_SUFFIX}"
        with self._translated_errors("write", name):
            self._create_for_writing(temporary)
            try:
                yield temporary
                self._move_into_place(temporary, name)
            except BaseException:
                self._discard(temporary)
                raise

    @contextmanager
    def parquet_file(self, name: str) -> Iterator[pq.ParquetFile]:
        """Open the Parquet file `name` for reading.

        Raises:
            DamagedFile: The file is damaged; also raised for an error inside the block.
        """
        try:
            with pq.ParquetFile(
                self._path(name), filesystem=self._fs, page_checksum_verification=True
            ) as file:
                yield file
        except (OSError, *READ_ERRORS) as exc:
            maybe_storage = isinstance(exc, OSError | pa.ArrowException)
            if not isinstance(exc, FileNotFoundError) and (
                not maybe_storage or self.is_damaged(name)
            ):
                raise self.quarantine(name, str(exc)) from exc
            with self._translated_errors("read", name):
                raise

    def scan(self, names: Sequence[str], schema: pa.Schema, predicate: pc.Expression) -> pa.Table:
        """Return the matching rows of the Parquet files `names`, with a `FILE_COLUMN`.

        Row groups whose statistics rule out a match are not read. Damaged files are skipped.

        Args:
            names: The files.
            schema: The columns to return; a column that a file lacks is null.
            predicate: Selects the rows.
        """
        paths = {self._path(name): name for name in names}
        try:
            table = self._scan_paths(list(paths), schema, predicate)
        except (OSError, *READ_ERRORS):
            # A search only reads; quarantining damaged files is left to the runs.
            intact = [path for path, name in paths.items() if not self.is_damaged(name)]
            with self._translated_errors("read", ""):
                table = self._scan_paths(intact, schema, predicate)
        files = pa.array([paths[path] for path in table[FILENAME_COLUMN].to_pylist()], pa.string())
        return table.drop_columns(FILENAME_COLUMN).append_column(self.FILE_COLUMN, files)

    def dataset(self, files: Mapping[str, pc.Expression], schema: pa.Schema) -> ds.Dataset:
        """Return Parquet files as a dataset. No file is opened before it is scanned.

        Args:
            files: The files' names, and for each an expression that all of its rows meet. A scan
                takes the values of columns that only the expression has from there, and leaves
                out files that the expression rules out.
            schema: The columns; one that a file lacks is null.
        """
        options = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
        parquet = ds.ParquetFileFormat(default_fragment_scan_options=options)
        fragments = [
            parquet.make_fragment(self._path(name), self._fs, partition_expression=expression)
            for name, expression in files.items()
        ]
        return ds.FileSystemDataset(fragments, schema, parquet, self._fs)

    def _scan_paths(
        self, paths: Sequence[str], schema: pa.Schema, predicate: pc.Expression
    ) -> pa.Table:
        files = ds.dataset(paths, schema=schema, format="parquet", filesystem=self._fs)
        return files.to_table(columns=[*schema.names, FILENAME_COLUMN], filter=predicate)

    def read(self, name: str) -> bytes | None:
        """Return the content of `name`; None if there is no such file.

        Raises:
            DamagedFile: `name` is a folder.
        """
        with self._translated_errors("read", name):
            try:
                with self._fs.open_input_stream(self._path(name)) as stream:
                    return bytes(stream.read())
            except FileNotFoundError:
                return None
            except OSError:
                if self._is_folder(name):
                    raise self.quarantine(name, "it is a folder") from None
                raise

    def quarantine(self, name: str, detail: str) -> DamagedFile:
        """Move `name` to the quarantine folder and return the error that reports it."""
        target = f"{QUARANTINED}/{name}.{uuid4().hex[:8]}"
        with self._translated_errors("quarantine", name), suppress(FileNotFoundError):
            self._make_folder_of(target)
            self._fs.move(self._path(name), self._path(target))
        return DamagedFile(
            f"{name} in {self.redacted_location} is damaged ({self._redacted(detail)}) and was moved to "
            f"{target}. Its content is fetched or rebuilt.",
            name=name,
        )

    def quarantined(self, folder: str) -> list[str]:
        """Return the names of the quarantined files of `folder`."""
        selector = fs.FileSelector(self._path(f"{QUARANTINED}/{folder}"), allow_not_found=True)
        with self._translated_errors("list", f"{QUARANTINED}/{folder}"):
            return sorted(one.base_name for one in self._fs.get_file_info(selector))

    def write(self, name: str, content: bytes) -> None:
        """Write `content` to `name`, replacing what was there."""
        with (
            self._placed(name) as temporary,
            self._fs.open_output_stream(self._path(temporary)) as stream,
        ):
            stream.write(content)

    def delete(self, name: str) -> None:
        """Delete `name`, if it exists."""
        with self._translated_errors("delete", name), suppress(FileNotFoundError):
            self._fs.delete_file(self._path(name))

    def replaces(self, name: str) -> list[str]:
        """Return the names of the files that the merged Parquet file `name` replaces.

        Cached, because files never change.
        """
        if name not in self._replaces:
            with self.parquet_file(name) as file:
                content = (file.metadata.metadata or {}).get(REPLACES)
                self._replaces[name] = (
                    msgspec.json.decode(content, type=list[str]) if content else []
                )
        return self._replaces[name]

    def delete_stale_temporaries(self, *, now: datetime) -> int:
        """Delete temporary files older than `TEMPORARY_MAX_AGE` and return how many.

        Does nothing if it ran less than `TEMPORARY_MAX_AGE` ago.
        """
        with self._translated_errors("list", CLEANUP_MARKER):
            marker = self._fs.get_file_info(self._path(CLEANUP_MARKER))
        before = now - TEMPORARY_MAX_AGE
        if marker.type is fs.FileType.File and marker.mtime > before:
            return 0
        self.write(CLEANUP_MARKER, b"{}")
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
        with self._translated_errors("list", ""):
            found = self._fs.get_file_info(selector)
        for one in found:
            is_temporary = one.base_name.endswith(TEMPORARY_SUFFIX) or one.base_name.startswith(
                PROBE_PREFIX
            )
            if one.type is fs.FileType.File and is_temporary:
                yield one.path[len(self._root) + 1 :], one.mtime

    def _move_into_place(self, temporary: str, name: str) -> None:
        """Rename `temporary` to `name`; a folder with that name is quarantined."""
        if self._is_folder(name):
            self.quarantine(name, "it is a folder")
        self._fs.move(self._path(temporary), self._path(name))

    def _is_folder(self, name: str) -> bool:
        return bool(self._fs.get_file_info(self._path(name)).type is fs.FileType.Directory)

    def is_damaged(self, name: str) -> bool:
        """Return whether the file is unreadable, although the storage returns all of its bytes.

        Raises:
            StorageError: The storage does not return them.
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
        except (OSError, *READ_ERRORS):
            return True
        return False

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _create_for_writing(self, name: str) -> None:
        """Create the folder of a file, and on a local disk the file itself with a private mode."""
        self._make_folder_of(name)
        if self._is_local:
            make_file(Path(self._path(name)))

    def _make_folder_of(self, name: str) -> None:
        folder = self._path(name).rpartition("/")[0]
        if self._is_local:
            make_folder(Path(folder))
        else:
            self._fs.create_dir(folder, recursive=True)

    def _discard(self, name: str) -> None:
        # The error that led here is the one to report.
        with suppress(OSError):
            self._fs.delete_file(self._path(name))

    @contextmanager
    def _translated_errors(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as exc:
            raise StorageError(
                f"Cannot {verb} {name or 'the data directory'} in {self.redacted_location}: "
                f"{self._redacted(str(exc))}. {_remedy(exc, self.redacted_location)}"
            ) from (None if self._secrets else exc)

    def _redacted(self, message: str) -> str:
        for secret in self._secrets:
            message = message.replace(secret, "***")
        return message


def _remedy(exc: Exception, location: str) -> str:
    """Advice for `exc`: credentials or permissions if access was denied, else free space."""
    scheme, _, _ = location.partition("://")
    denied = isinstance(exc, PermissionError) or ACCESS_DENIED.search(str(exc))
    if denied and scheme in CREDENTIALS:
        return (
            f"Check the credentials ({CREDENTIALS[scheme]}): they must be valid and allow listing, "
            "reading, writing and deleting there."
        )
    if denied:
        return "Check its permissions, or set BK_PIPELINE_DATA_DIR to another location."
    return "Make room, or set BK_PIPELINE_DATA_DIR to another location, and run again."


def _redact(location: str) -> tuple[str, list[str]]:
    """Split a path or URI into its printable form and the secrets in it."""
    if "://" not in location:
        return location, []
    scheme, _, rest = location.partition("://")
    place, _, query = rest.partition("?")
    credentials, _, place = place.rpartition("@")
    secrets = [one for one in (query, *credentials.split(":")) if one]
    return f"{scheme}://{place}", secrets
