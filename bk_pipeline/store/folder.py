"""A folder on a disk or in an object store, and the few things we do with files in it.

Files are immutable once they are there: each is written under a temporary name and moved
to its own, so that a reader never meets half a file and a killed run leaves none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

from bk_pipeline.errors import StorageError

TEMPORARY = ".tmp"
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

    def names(self, folder: str, *, suffix: str = "") -> list[str]:
        """The files in `folder`, sorted by name; none if it does not exist."""
        return list(self.sizes(folder, suffix=suffix))

    def sizes(self, folder: str, *, suffix: str = "") -> dict[str, int]:
        """The files in `folder` with their bytes, sorted by name; none if it does not exist."""
        selector = fs.FileSelector(self._path(folder), allow_not_found=True)
        with self._explained("list", folder):
            found = self._fs.get_file_info(selector)
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
            self._fs.create_dir(self._path(name).rpartition("/")[0], recursive=True)
            try:
                with pq.ParquetWriter(
                    self._path(temporary),
                    schema,
                    filesystem=self._fs,
                    compression="zstd",
                    compression_level=1,
                ) as writer:
                    yield writer
                self._fs.move(self._path(temporary), self._path(name))
            except BaseException:
                self._drop(temporary)
                raise

    @contextmanager
    def parquet_file(self, name: str) -> Iterator[pq.ParquetFile]:
        """The Parquet file `name`, open for reading."""
        with (
            self._explained("read", name),
            pq.ParquetFile(self._path(name), filesystem=self._fs) as file,
        ):
            yield file

    def scan(self, names: Sequence[str], schema: pa.Schema, wanted: pc.Expression) -> pa.Table:
        """The rows of the Parquet files `names` that are `wanted`, and in `FILE` their file's.

        Row groups that cannot hold any are passed over; a column of `schema` is null where
        a file lacks it.
        """
        with self._explained("read", ""):
            paths = {self._path(name): name for name in names}
            files = ds.dataset(list(paths), schema=schema, format="parquet", filesystem=self._fs)
            table = files.to_table(columns=[*schema.names, PATH], filter=wanted)
        of_rows = pa.array([paths[path] for path in table[PATH].to_pylist()], pa.string())
        return table.drop_columns(PATH).append_column(self.FILE, of_rows)

    def read(self, name: str) -> bytes | None:
        """The bytes of `name`; None if there is no such file."""
        with self._explained("read", name):
            try:
                with self._fs.open_input_stream(self._path(name)) as stream:
                    return bytes(stream.read())
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Put `content` in place of whatever `name` held."""
        temporary = f"{name}.{uuid4().hex}{TEMPORARY}"
        with self._explained("write", name):
            self._fs.create_dir(self._path(name).rpartition("/")[0], recursive=True)
            try:
                with self._fs.open_output_stream(self._path(temporary)) as stream:
                    stream.write(content)
                self._fs.move(self._path(temporary), self._path(name))
            except BaseException:
                self._drop(temporary)
                raise

    def delete(self, name: str) -> None:
        """Have no file `name`; that somebody else deleted it first is as well."""
        with self._explained("delete", name), suppress(FileNotFoundError):
            self._fs.delete_file(self._path(name))

    def replaced(self, name: str) -> list[str]:
        """The names that the Parquet file `name` says it replaces."""
        with self.parquet_file(name) as file:
            content = (file.metadata.metadata or {}).get(REPLACES)
        return msgspec.json.decode(content, type=list[str]) if content else []

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _drop(self, name: str) -> None:
        # It was never made, or the disk is gone: the first error is the one to tell.
        with suppress(OSError):
            self._fs.delete_file(self._path(name))

    @contextmanager
    def _explained(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as exc:
            words = str(exc)
            for secret in self._secrets:
                words = words.replace(secret, "***")
            raise StorageError(
                f"Cannot {verb} {name or 'the data directory'} in {self.shown}: {words}. "
                f"{_remedy(exc, self.shown)}"
            ) from (None if self._secrets else exc)


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
