"""DAGSTER_HOME, where Dagster keeps its records, for the command line and `make dev`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import yaml  # type: ignore[import-untyped]  # comes with Dagster, which has no stubs of it
from filelock import FileLock

from bk_pipeline.errors import ConfigError, StorageError
from bk_pipeline.private_files import file_mode, make_file, make_folder

CONFIG = "dagster.yaml"
# The configuration of a home that has none.
TEMPLATE = Path(__file__).with_name(CONFIG)
LOCK = ".bk_pipeline.lock"

# What matters of the template, and what happens without it.
WANTED = {
    "concurrency.pools.default_limit": "concurrent runs are not kept within Buildkite's limits",
    "run_monitoring.enabled": "runs that hang are not ended",
    "run_monitoring.free_slots_after_run_end_seconds": "killed runs keep their slots of pools",
    "concurrency.runs.max_concurrent_runs": "a backfill may start too many runs at once",
}
# Older names of the same.
ALSO = {
    "concurrency.pools.default_limit": ("concurrency.default_op_concurrency_limit",),
    "concurrency.runs.max_concurrent_runs": ("run_coordinator.config.max_concurrent_runs",),
}


def home_folder() -> Path:
    """Return DAGSTER_HOME, or `.dagster` in the working directory."""
    return Path(os.environ.get("DAGSTER_HOME") or ".dagster").expanduser().absolute()


def local_instance(*, migrate: bool = False) -> dg.DagsterInstance:
    """Return the instance of `home_folder`, which is created if it is missing.

    An existing configuration is left as it is. Several processes may call this at once: one
    creates the tables, and the others wait for it. Without that, Dagster's migrations of a new
    instance get into each other's way and leave it unusable.

    Args:
        migrate: Also bring the tables of an older Dagster up to date.

    Raises:
        StorageError: The instance cannot be made or opened.
    """
    home = home_folder()
    with explained(str(home)):
        make_folder(home)
        with FileLock(home / LOCK, mode=file_mode()):
            if not (home / CONFIG).exists():
                _write(home / CONFIG, TEMPLATE.read_text())
            instance = dg.DagsterInstance.from_config(str(home))
            # Each makes its tables when it is first asked for.
            _ = instance.run_storage, instance.event_log_storage, instance.schedule_storage
            if migrate:
                instance.upgrade()
        return instance


def temporary_instance() -> dg.DagsterInstance:
    """Return an instance in memory that nothing remains of."""
    return dg.DagsterInstance.ephemeral()


def shortcomings(home: Path) -> list[str]:
    """Return what the configuration in `home` lacks that matters, and what happens without it.

    Raises:
        ConfigError: The file cannot be read, or is not YAML.
    """
    try:
        found = yaml.safe_load((home / CONFIG).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise ConfigError(f"{home / CONFIG} cannot be read: {exc}") from exc
    names = {name: (name, *ALSO.get(name, ())) for name in WANTED}
    return [
        f"no {name} ({WANTED[name]})"
        for name, any_of in names.items()
        if not any(_value(found, one) for one in any_of)
    ]


def _value(config: Any, path: str) -> Any:
    for name in path.split("."):
        if not isinstance(config, dict):
            return None
        config = config.get(name)
    return config


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all: Dagster may read it at any time.

    The caller holds the lock, so that the temporary name is free or left by a killed process.
    """
    new = path.with_name(f"{path.name}.tmp")
    new.unlink(missing_ok=True)  # what was left may be readable by others
    make_file(new)
    new.write_text(text)
    new.replace(path)


@contextmanager
def explained(home: str) -> Iterator[None]:
    """Turn errors of Dagster's database and of its folder into a `StorageError`."""
    # The definitions import this module; only an instance needs SQLAlchemy.
    from sqlalchemy.exc import DBAPIError  # noqa: PLC0415

    try:
        yield
    except (OSError, DBAPIError) as exc:
        detail = exc.orig if isinstance(exc, DBAPIError) else exc.strerror
        raise StorageError(
            f"Dagster cannot keep its records in {home}: {detail}. Make room there, or set "
            "DAGSTER_HOME to another folder; what was delivered is not sent again."
        ) from exc
