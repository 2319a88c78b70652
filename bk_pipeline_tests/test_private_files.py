"""New files and folders follow `BK_PIPELINE_UMASK`."""

from __future__ import annotations

import os
import stat
import subprocess

import pyarrow as pa
import pytest

from bk_pipeline.buildkite.shared_quota import SharedQuota
from bk_pipeline.cli.output import atomic_file
from bk_pipeline.clock import SystemClock
from bk_pipeline.errors import ConfigError
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.private_files import PRIVATE, shared_with_others, tightening, use_umask
from bk_pipeline.settings import Settings
from bk_pipeline.store.folder import Folder
from bk_pipeline.store.spans import StatsStore


@pytest.fixture(autouse=True)
def _own_umask():
    before = os.umask(0)
    yield
    os.umask(before)
    use_umask(PRIVATE)


def modes_of_all_files(root):
    """The modes of every kind of file in a data directory, by path, while its ledger is open."""
    folder = Folder(str(root))
    table = pa.table({"a": [1]})
    with folder.parquet_writer("spans/day/part.parquet", table.schema) as writer:
        writer.write_table(table)
        modes = modes_below(root)
    folder.write("raw/day/watermark.json", b"{}")
    StatsStore(folder).write("pipelines", "2026-11-20", table, source="")
    with atomic_file(root / "export.ndjson") as export:
        export.write(b"{}")
    SharedQuota(root / "buildkite-quota.json").statuses(0.0)
    with (
        Ledger.open(root / "ledger.sqlite", clock=SystemClock()) as ledger,
        ledger.delivery_lock("honeycomb", "2026-11-20"),
    ):
        ledger.begin("honeycomb", "2026-11-20", {bytes(16): [bytes(8)]})
        return modes | modes_below(root)


def modes_below(root):
    return {path: stat.S_IMODE(path.stat().st_mode) for path in (root, *root.rglob("*"))}


@pytest.mark.parametrize(
    ("umask", "folder", "file"), [("", 0o700, 0o600), ("077", 0o700, 0o600), ("027", 0o750, 0o640)]
)
def test_new_files_and_folders_follow_the_umask_setting(tmp_path, umask, folder, file):
    Settings.of(BK_PIPELINE_UMASK=umask)
    found = modes_of_all_files(tmp_path / "above" / "data")
    assert {path.suffix for path in found} >= {
        *(".parquet", ".tmp", ".json", ".ndjson", ".lock", ".sqlite")
    }
    assert any("stats" in path.parts for path in found)
    assert any(path.name.endswith("-wal") for path in found)
    for path, mode in found.items():
        assert mode == (folder if path.suffix == "" and "-" not in path.name else mode)
        assert not mode & int(umask or "077", 8), path
        if path.suffix in {".parquet", ".json", ".ndjson", ".tmp", ".sqlite", ".lock"}:
            assert mode == file, path
    assert stat.S_IMODE((tmp_path / "above").stat().st_mode) == folder


def test_existing_folders_keep_their_mode_and_are_reported(tmp_path):
    tmp_path.chmod(0o755)
    Folder(str(tmp_path)).write("a", b"1")
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert shared_with_others(tmp_path)
    assert not shared_with_others(tmp_path / "a")


@pytest.mark.parametrize("umask", ["077", "027", "022"])
def test_doctors_chmod_removes_the_rights_of_others(tmp_path, umask):
    Settings.of(BK_PIPELINE_UMASK=umask)
    folder = tmp_path / "it's data"
    (folder / "raw").mkdir(parents=True)
    (folder / "raw" / "part.parquet").write_bytes(b"")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777)
    subprocess.run(["sh", "-c", tightening(folder)], check=True)  # any sh
    for mode in modes_below(folder).values():
        assert mode == 0o777 & ~int(umask, 8)


def test_malformed_umask_is_refused():
    with pytest.raises(ConfigError, match="BK_PIPELINE_UMASK"):
        Settings.of(BK_PIPELINE_UMASK="abc")
