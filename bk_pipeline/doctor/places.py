"""Checks of settings, storage, ledger, Dagster home, versions, and destinations."""

from __future__ import annotations

import os
import platform
import shutil
from getpass import getuser
from importlib.metadata import version as version_of
from pathlib import Path
from uuid import uuid4

from bk_pipeline import __version__
from bk_pipeline.deliver.destinations import Configured
from bk_pipeline.deliver.honeycomb.destination import Honeycomb
from bk_pipeline.doctor.findings import CheckResult, Installation, ok, warning
from bk_pipeline.environment import ENV_FILE, env_file, env_path, ours
from bk_pipeline.errors import AccessDenied, ConfigError, LedgerBehind, NoLedger, StorageError
from bk_pipeline.ledger.schema import SQLITE
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.pipeline.known import DayDeliveries
from bk_pipeline.pipeline.mark import NO_CHANGES
from bk_pipeline.private_files import shared_with_others, tightening
from bk_pipeline.settings import ALIASES, Settings
from bk_pipeline.store.folder import PROBE_PREFIX, QUARANTINED, Folder
from bk_pipeline.text import counted

CONTENT = b"bk-pipeline doctor"
TEST_EVENT = "bk_pipeline.test"
BYTES_PER_GB = 1_000_000_000
LOW_SPACE_GB = 2.0
# A lost or old ledger lacks the last days; checking all days would take too long.
DAYS_CHECKED = 31


def storage(it: Installation) -> CheckResult:
    """Check that a file can be written to the data directory, read, and deleted."""
    where = it.settings.storage
    if "://" in where:
        message = f"{_probed(where)}: a file was written, read and deleted."
        damaged = _damaged_shown(Folder(where))
        return warning(f"{message} {damaged}") if damaged else ok(message)
    folder = _writable(Path(where))
    made = "" if folder == Path(where) else "; the first run makes the folder"
    free_gb = shutil.disk_usage(folder).free / BYTES_PER_GB
    message = f"{where} can be written{made}; {free_gb:,.1f} GB free."
    if damaged := _damaged_shown(Folder(where)):
        return warning(f"{message} {damaged}")
    if shared := _shared(Path(where)):
        return warning(f"{message} {shared}")
    if free_gb < LOW_SPACE_GB:
        return warning(f"{message} A busy day takes some 100 MB: make room before a long backfill.")
    return ok(message)


def _shared(path: Path) -> str:
    """Return what to do if other users can read the folder or file, otherwise an empty text."""
    if not path.exists() or not shared_with_others(path):
        return ""
    return (
        f"Others can look into it: {tightening(path)} ends that, or BK_PIPELINE_UMASK says who may "
        "(027: your group)."
    )


def _damaged_shown(folder: Folder) -> str:
    found = folder.names_recursive(QUARANTINED, suffix="")
    if not found:
        return ""
    count = f"{len(found)} damaged file{'' if len(found) == 1 else 's'}"
    return (
        f"{count} in {folder.redacted_location}/{QUARANTINED}, like {found[0]}: what they held is fetched or "
        "made again when their day is materialized. Check the disk, and delete them."
    )


def ledger(it: Installation) -> CheckResult:
    """Check that the ledger can be opened and matches the deliveries. It need not exist yet.

    Raises:
        ConfigError: It would be on this host alone, and the data are in an object store.
        LedgerBehind: The next delivery would stop.
    """
    it.settings.check_ledger_location()
    try:
        with it.app.ledger(create=False) as book:
            known = counted(len(book.destinations()), "destination")
            _require_known(it, book)
            message = f"{book.where}; it knows of {known}."
            path = _ledger_file(it.settings)
            # The check of the data directory reports its folder.
            shared = _shared(path) if path and shared_with_others(path.parent) else ""
            return warning(f"{message} {shared}") if shared else ok(message)
    except NoLedger as exc:
        if _recent_records(it):
            raise LedgerBehind(
                f"{exc} But spans were delivered from {Folder(it.settings.storage).redacted_location}: bring "
                "the ledger back; or let `bk-pipeline ledger adopt` take them for delivered, or "
                "send them again with `bk-pipeline backfill --resend`."
            ) from exc
    path = _ledger_file(it.settings)
    if path is None:
        return ok("the database can be reached; the first delivery makes the tables.")
    _writable(path.parent)
    return ok(f"{path}: the first delivery makes it.")


def _require_known(it: Installation, book: Ledger) -> None:
    """Check that `book` knows the recorded deliveries of the last days.

    Raises:
        LedgerBehind: The ledger lacks some of them.
    """
    for day, name in _recent_records(it):
        records = it.app.spans().deliveries
        DayDeliveries(day, name, book, records).require_known()


def _recent_records(it: Installation) -> list[tuple[str, str]]:
    """Return day and destination of the latest recorded deliveries to configured destinations."""
    records = it.app.spans().deliveries
    return [
        (day, name)
        for day in records.days()[-DAYS_CHECKED:]
        for name in it.destination_names
        if records.of_day(day, name)
    ]


def _ledger_file(settings: Settings) -> Path | None:
    if settings.ledger_url is None:
        return settings.ledger_path
    url = settings.ledger_url.get_secret_value()
    return Path(url.removeprefix(SQLITE)).expanduser() if url.startswith(SQLITE) else None


def _probed(location: str) -> str:
    """Write, read and delete a file in `location`; return the location without secrets.

    Raises:
        StorageError: One of these failed.
    """
    folder = Folder(location)
    name = f"{PROBE_PREFIX}{uuid4().hex}"
    folder.write(name, CONTENT)
    found = folder.read(name)
    folder.delete(name)
    if found != CONTENT:
        raise StorageError(
            f"{folder.redacted_location} gave back something else than was written there. Check the disk, or "
            "set BK_PIPELINE_DATA_DIR to another place."
        )
    return folder.redacted_location


def _writable(path: Path) -> Path:
    """Check that files can be written to `path`, or to its nearest existing parent; return that.

    Raises:
        StorageError: They cannot.
    """
    folder = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise StorageError(
            f"{path} cannot be written: {folder} is no folder that {getuser()} may write to. "
            "Change that, or set BK_PIPELINE_DATA_DIR to another place."
        )
    _probed(str(folder))
    return folder


HOME, HOME_FILE = "DAGSTER_HOME", "dagster.yaml"


def settings(it: Installation) -> CheckResult:
    """Check that all values are well-formed and that every variable has an effect."""
    given = it.settings
    file = env_file()
    exported = sum(bool(os.environ.get(name)) for name in ALIASES)
    path = env_path()
    set_there = sum(bool(file.get(name)) for name in ALIASES)
    place = f"{set_there} in {path}" if path.exists() else f"there is no {path}"
    message = f"{exported} set in the environment, {place}."
    warnings = [*given.warnings, *_overruled(file)]
    if HOME in file:
        warnings.append(f"{HOME} in {ENV_FILE} has no effect: export it in the shell.")
    return warning(" ".join([message, *warnings])) if warnings else ok(message)


def _overruled(file: dict[str, str]) -> list[str]:
    return [
        f"{name} has another value in the environment than in {ENV_FILE}, and the environment "
        "takes precedence, except under dagster dev: remove one of them."
        for name in sorted(file)
        if ours(name) and os.environ.get(name, "").strip() not in {"", file[name].strip()}
    ]


def dagster_home(_: Installation) -> CheckResult:
    """Check that DAGSTER_HOME exists and has a configuration."""
    named = os.environ.get(HOME)
    if not named:
        here = Path(".dagster").absolute()
        return ok(f"is not set; `make dev` and `bk-pipeline backfill` use {here}.")
    home = Path(named).expanduser()
    if not home.is_absolute():
        raise ConfigError(
            f"DAGSTER_HOME is {named}, and Dagster wants an absolute path. Set it to "
            f"{home.absolute()}."
        )
    if not home.exists():
        return warning(f"{home} does not exist yet; `make dev` and `bk-pipeline backfill` make it.")
    if not home.is_dir() or not os.access(home, os.W_OK):
        raise ConfigError(
            f"DAGSTER_HOME is {home}, and that is no folder that can be written. Set it to one."
        )
    if not (home / HOME_FILE).exists():
        return warning(
            f"{home} holds no {HOME_FILE}: copy ours there (`make dev` does so), or Dagster runs "
            "a whole backfill at once."
        )
    return ok(f"{home}, with a {HOME_FILE}.")


def version(_: Installation) -> CheckResult:
    """Report the versions in use."""
    return ok(
        f"bk_pipeline {__version__}, Dagster {version_of('dagster')}, "
        f"Python {platform.python_version()} on {platform.system()} {platform.machine()}."
    )


def destination(configured: Configured, it: Installation) -> CheckResult:
    """Check that a destination responds and what the key permits. Sends no spans."""
    with it.app.destination(configured) as opened:
        it.destination_names.append(opened.name)
        found = opened.probe()
    return CheckResult(found.message, is_warning=found.is_warning)


def test_event(configured: Configured, it: Installation) -> CheckResult:
    """Send one event to a Honeycomb dataset, to see that events arrive."""
    with it.app.destination(configured) as opened:
        if not isinstance(opened, Honeycomb):
            return warning(f"{opened.name} takes spans only, so no test event was sent.")
        now = it.clock.now()
        opened.send_event({"name": TEST_EVENT, "message": "Sent by bk-pipeline doctor."}, at=now)
        return ok(
            f"{opened.name} accepted an event with the name {TEST_EVENT}, of {now:%H:%M:%S} UTC."
        )


def markers(it: Installation) -> CheckResult:
    """Check that the marker rules are valid and that the key can create markers."""
    rules = it.app.marker_rules()
    count = counted(len(rules.rules), "rule")
    with it.app.marker_client() as client:
        found = f"{count}; the key may place markers at {client.name}."
    lacks_changes = rules.use_regressions and not it.app.stored_changes().days
    return ok(f"{found} {NO_CHANGES}" if lacks_changes else found)


def board(it: Installation) -> CheckResult:
    """Check that the configuration key may do what `bk-pipeline honeycomb` does for the settings.

    A key without any of the permissions, beside rules for markers, is one for markers.
    """
    from bk_pipeline.honeycomb.setup import permissions  # noqa: PLC0415  # loads the queries

    needed = permissions(it.app.honeycomb_design())
    with it.app.resource_client() as client:
        granted = client.account.permissions
        if it.settings.markers is not None and not granted.intersection(needed):
            return ok("the key is for markers; bk-pipeline honeycomb would need another.")
        try:
            client.require(*needed)
        except AccessDenied as exc:
            return warning(f"bk-pipeline honeycomb cannot set up the board: {exc}")
    return ok(f"the key may set up the board, with {' and '.join(needed)}.")


def deployments(it: Installation) -> CheckResult:
    """Check that the deployment rules are valid."""
    count = counted(len(it.app.deployment_rules() or ()), "rule")
    return ok(f"{count}; bk-pipeline deployments shows what they find in the stored days.")


# By these newest stored days, a policy of job details is measured.
PREVIEWED_DAYS = 7


def job_details(it: Installation) -> CheckResult:
    """Check that the policy of job details is valid, and tell what it costs by the stored days."""
    from bk_pipeline.pipeline.details import preview  # noqa: PLC0415  # loads pyarrow and DuckDB

    policy = it.app.job_details()
    count = counted(len(policy.rule) if policy else 0, "rule")
    spans = it.app.spans()
    days = sorted(spans.parts_by_day())[-PREVIEWED_DAYS:]
    if policy is None or not days:
        return ok(f"{count}; what they cost shows once days are stored.")
    found = preview(days, spans=spans, policy=policy)
    return ok(f"{count}; {found}")


def sampling(it: Installation) -> CheckResult:
    """Check that the sampling rules are valid."""
    rules = it.app.sampling()
    count = counted(len(rules.rules) if rules else 0, "rule")
    return ok(f"{count}; bk-pipeline sampling shows what they keep of the stored days.")
