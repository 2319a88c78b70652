"""Every setting, read once from the environment (or `.env`) and frozen.

To add a setting, add a field here: `.env.example` and the documentation are checked
against this class. A setting keeps its established name where one exists
(`HONEYCOMB_API_KEY`); otherwise it is `BK_PIPELINE_<ROOM>_<NAME>`. Secrets are
`SecretStr`, so that printing the settings, or an error about them, shows none.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, PrivateAttr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from bk_pipeline.environment import (
    OTLP,
    OURS,
    SDK_DISABLED,
    env_file,
    env_path,
    environment,
    problems,
    tidied,
    unknown,
)
from bk_pipeline.errors import ConfigError
from bk_pipeline.private_files import use_umask
from bk_pipeline.setting_types import (
    Age,
    BuildkiteToken,
    BuildkiteUrl,
    DatabaseUrl,
    Dataset,
    Day,
    Globs,
    HoneycombKey,
    HoneycombUrl,
    InstanceName,
    KeyPrefix,
    Pattern,
    Secret,
    Slug,
    Umask,
    Zone,
)

# What a named destination does not inherit from the plain one.
OTHERS = (
    "HONEYCOMB_",
    "OTEL_",
    "BK_PIPELINE_OTLP_MAX_AGE",
    "BK_PIPELINE_OTLP_METRICS_MAX_AGE",
)
SQLITE = "sqlite:"
# Folder of the data directory in which each named pipeline has one.
OF_NAMED = "pipelines"
_log = logging.getLogger(__name__)


class Settings(BaseSettings):
    """The whole configuration. Make one with `Settings.load()`; hand it on, never re-read."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
    )

    _environment: dict[str, str] = PrivateAttr(default_factory=dict)
    _looked_in: Path | None = PrivateAttr(None)

    buildkite_api_token: BuildkiteToken | None = Field(
        None,
        alias="BUILDKITE_API_TOKEN",
        description="Buildkite API access token with the scope `read_builds`.",
    )
    buildkite_organization_slug: Slug | None = Field(
        None,
        alias="BUILDKITE_ORGANIZATION_SLUG",
        description="The organization's name as it stands in Buildkite URLs, like `acme` in "
        "`https://buildkite.com/acme`.",
    )
    buildkite_api_url: BuildkiteUrl = Field(
        "https://api.buildkite.com",
        alias="BUILDKITE_API_URL",
        description="Where the Buildkite REST API answers.",
    )
    honeycomb_api_key: HoneycombKey | None = Field(
        None,
        alias="HONEYCOMB_API_KEY",
        description="Honeycomb ingest key, or a configuration key that may send events. "
        "Spans are sent to Honeycomb if it is set.",
    )
    honeycomb_configuration_key: Secret | None = Field(
        None,
        alias="HONEYCOMB_CONFIGURATION_KEY",
        description="Honeycomb configuration key with the permission Manage Markers, for "
        "`BK_PIPELINE_MARKERS`: ingest keys cannot place markers.",
    )
    honeycomb_api_endpoint: HoneycombUrl = Field(
        "https://api.honeycomb.io",
        alias="HONEYCOMB_API_ENDPOINT",
        description="Honeycomb's API; for the EU region `https://api.eu1.honeycomb.io`.",
    )
    honeycomb_dataset: Dataset = Field(
        "buildkite",
        alias="HONEYCOMB_DATASET",
        description="Dataset that the spans go to; also their `service.name`.",
    )
    destinations: Globs = Field(
        (),
        alias="BK_PIPELINE_DESTINATIONS",
        description="Where spans go: `honeycomb`, `otlp`, `otlp_metrics`, or several of a kind with "
        "names of your own, like `honeycomb,otlp,otlp:tempo`. The variables of `otlp:tempo` begin "
        "with `BK_PIPELINE_TEMPO_`, like `BK_PIPELINE_TEMPO_OTEL_EXPORTER_OTLP_ENDPOINT`. Default: "
        "`honeycomb` if its key is set, `otlp` and `otlp_metrics` if their endpoint is.",
    )
    otlp_account: Slug | None = Field(
        None,
        alias="BK_PIPELINE_OTLP_ACCOUNT",
        description="A word for whose account an OTLP endpoint's credentials are, like `team-a`; "
        "part of its name in the ledger. Needed only where two destinations have the same URL "
        "and nothing but their keys tells them apart. For `otlp:tempo` it is "
        "`BK_PIPELINE_TEMPO_OTLP_ACCOUNT`.",
    )
    honeycomb_max_age_days: Annotated[int, Field(ge=0, le=36_500)] = Field(
        60,
        alias="BK_PIPELINE_HONEYCOMB_MAX_AGE_DAYS",
        description="Spans older than this are counted and not sent: after its retention (60 "
        "days on most plans) Honeycomb accepts and bills them, and never shows them. 0: send all.",
    )
    otlp_max_age: Age | None = Field(
        None,
        alias="BK_PIPELINE_OTLP_MAX_AGE",
        description="Spans older than this, like `90m`, `24h` or `60d`, are counted and not sent to "
        "an OTLP endpoint; `0`: send all. Default: what is known of its host (Dynatrace 60 minutes "
        "after a span's end; New Relic, Sumo Logic, Yandex Monium 24 hours; Honeycomb "
        "`BK_PIPELINE_HONEYCOMB_MAX_AGE_DAYS`), else all. For `otlp:tempo` it is "
        "`BK_PIPELINE_TEMPO_OTLP_MAX_AGE`.",
    )
    otlp_metrics_max_age: Age | None = Field(
        None,
        alias="BK_PIPELINE_OTLP_METRICS_MAX_AGE",
        description="The same for metrics alone. Default: `BK_PIPELINE_OTLP_MAX_AGE`, else what is "
        "known of the host (Dynatrace, Honeycomb).",
    )
    markers: Path | None = Field(
        None,
        alias="BK_PIPELINE_MARKERS",
        description="File of rules (TOML) that say which builds and jobs become markers in "
        "Honeycomb; docs/markers.md has ready ones. Default: no markers.",
    )
    trace_id_style: Literal["otel", "buildevents"] = Field(
        "otel",
        alias="BK_PIPELINE_TRACE_ID_STYLE",
        description="`buildevents` makes the Honeycomb loader write the dashed build UUID as "
        "trace id and as the root's span id, so that the spans of in-job `buildevents` fall into "
        "our traces.",
    )
    deliver_guarantee: Literal["at_least_once", "at_most_once"] = Field(
        "at_least_once",
        alias="BK_PIPELINE_DELIVER_GUARANTEE",
        description="What becomes of batches whose answer never came: sent again, so that none "
        "is lost and some may be doubled, or taken for sent.",
    )
    data_dir: str | None = Field(
        None,
        alias="BK_PIPELINE_DATA_DIR",
        description="Folder of the raw store, the span table and the ledger, or the URI of an "
        "object store (s3://…, gs://…) for the first two. Default: `.bk_pipeline` in the folder "
        "that holds `DAGSTER_HOME`, else in the working directory.",
    )
    umask: Umask = Field(
        0o077,
        alias="BK_PIPELINE_UMASK",
        description="Permissions that new local files and folders lack, in octal: `077` leaves "
        "them to their owner alone, `027` lets the group read. Those that are there are not "
        "changed; `bk-pipeline doctor` tells of a data folder that others can read.",
    )
    ledger_url: DatabaseUrl | None = Field(
        None,
        alias="BK_PIPELINE_LEDGER_URL",
        description="Database of the delivery ledger, like "
        "`postgresql://user:password@host:5432/database`; needed where several hosts deliver. "
        "Default: the file `ledger.sqlite` in the data folder.",
    )
    ledger_on_this_host: bool = Field(
        default=False,
        alias="BK_PIPELINE_LEDGER_ON_THIS_HOST",
        description="Whether the ledger may be a file on this host although the data are in an "
        "object store. Only if the disk outlives the container and no other host delivers: "
        "without its ledger a delivery stops until you decide what has been delivered.",
    )
    start_date: Day = Field(
        date(2026, 1, 1),
        alias="BK_PIPELINE_START_DATE",
        description="First day that can be materialized. Buildkite keeps builds for 30, 90 or "
        "365 days, depending on the plan.",
    )
    timezone: Zone = Field(
        ZoneInfo("UTC"),
        alias="BK_PIPELINE_TIMEZONE",
        description="Time zone in which a day begins. Set it once: changing it cuts other days.",
    )
    pipelines: Globs = Field(
        (),
        alias="BK_PIPELINE_PIPELINES",
        description="Pipelines to take, as slugs or globs separated by commas or spaces, like "
        "`web-*,deploy`; `!` in front leaves out. Default: all.",
    )
    branches: Globs = Field(
        (),
        alias="BK_PIPELINE_BRANCHES",
        description="Branches whose builds to take, as names or globs separated by commas or "
        "spaces, like `main,release/*`; `!` in front leaves out. Default: all.",
    )

    spans_drop: Globs = Field(
        (),
        alias="BK_PIPELINE_SPANS_DROP",
        description="Attributes that never leave: names or globs separated by commas or spaces, "
        "like `buildkite.build.creator.*,*.email`. Copies go with them: docs/privacy.md.",
    )
    spans_hash: Globs = Field(
        (),
        alias="BK_PIPELINE_SPANS_HASH",
        description="Attributes whose values leave as 16 hex digits of their SHA-256: names or "
        "globs, like `buildkite.agent.hostname`. Numbers are left out.",
    )
    spans_mask: Pattern = Field(
        "",
        alias="BK_PIPELINE_SPANS_MASK",
        repr=False,  # it may be the very text that is to be masked
        description="A regular expression (Python's). What it matches inside commands, messages "
        "and other text leaves as `[masked]`.",
    )
    spans_mask_secrets: bool = Field(
        default=True,
        alias="BK_PIPELINE_SPANS_MASK_SECRETS",
        description="Whether what looks like a token, a private key, or a password in a URL or a "
        "command is masked too; docs/privacy.md lists what is recognized.",
    )
    spans_waits: bool = Field(
        default=False,
        alias="BK_PIPELINE_SPANS_WAITS",
        description="Whether a job that waited for an agent gets a span `buildkite.job.wait` of "
        "that time as well. Each is billed; the wait is an attribute of the job either way.",
    )
    spans_links: bool = Field(
        default=True,
        alias="BK_PIPELINE_SPANS_LINKS",
        description="Whether spans link to the builds that triggered them, to what they are a "
        "rebuild of, and to the attempt that a retry replaces. Honeycomb bills each link.",
    )
    spans_conventions: bool = Field(
        default=True,
        alias="BK_PIPELINE_SPANS_CONVENTIONS",
        description="Whether spans have the attributes of OpenTelemetry's semantic conventions, "
        "`cicd.*` and `vcs.*`, besides Buildkite's own.",
    )
    spans_export: Literal["finished", "settled"] = Field(
        "finished",
        alias="BK_PIPELINE_SPANS_EXPORT",
        description="When a build's spans are made: `finished`, each time that it finishes, or "
        "`settled`, once it has been finished and not blocked for "
        "`BK_PIPELINE_SPANS_SETTLED_HOURS`. Settled builds leave with the next run of their day, "
        "at the latest with the schedule `nightly_reconcile`, which must be on.",
    )
    spans_settled_hours: Annotated[int, Field(ge=1, le=720)] = Field(
        24,
        alias="BK_PIPELINE_SPANS_SETTLED_HOURS",
        description="Hours after which a build counts as settled; for "
        "`BK_PIPELINE_SPANS_EXPORT=settled`.",
    )
    name: InstanceName | None = Field(
        None,
        alias="BK_PIPELINE_NAME",
        description="Name of the pipeline, like `acme`: prefix of its asset keys, jobs, schedules, "
        "sensors, pools and resources; its data are in `pipelines/acme` of the data directory. Needed where a "
        "Dagster project embeds the pipeline (docs/embedding.md). Default: none.",
    )
    key_prefix: KeyPrefix = Field(
        (),
        alias="BK_PIPELINE_KEY_PREFIX",
        description="Prefix of the asset keys, its parts separated by `/`, like `ci/acme`. "
        "Default: `BK_PIPELINE_NAME`.",
    )
    sensor_interval_s: Annotated[int, Field(ge=5, le=86_400)] = Field(
        30,
        alias="BK_PIPELINE_SENSOR_INTERVAL_S",
        description="Seconds between two looks of the sensor; each costs a request.",
    )
    nightly_days: Annotated[int, Field(ge=1, le=366)] = Field(
        3,
        alias="BK_PIPELINE_NIGHTLY_DAYS",
        description="How many of the last complete days the schedule `nightly_reconcile` lists "
        "again; each costs a request for 100 builds.",
    )
    buildkite_reserve_percent: Annotated[int, Field(ge=0, le=90)] = Field(
        10,
        alias="BK_PIPELINE_BUILDKITE_RESERVE_PERCENT",
        description="Percent of the organization's requests a minute that are left to its other "
        "users: when no more remain, runs wait for the next minute.",
    )
    self_tracing: bool = Field(
        default=False,
        alias="BK_PIPELINE_SELF_TRACING",
        description="Whether the pipeline's own runs are traced, as the service `bk_pipeline`, to "
        "the endpoint of `OTEL_EXPORTER_OTLP_*`: days, windows, requests, waits, batches. The "
        "trace's id is that of the Dagster run.",
    )
    http_deadline_s: Annotated[float, Field(ge=0, le=86_400)] = Field(
        300.0,
        alias="BK_PIPELINE_HTTP_DEADLINE_S",
        description="For how many seconds a request that Buildkite or a destination cannot "
        "serve is tried again before the run fails.",
    )

    @classmethod
    def load(cls, **values: str) -> Settings:
        """The settings of this process; `values` take precedence over the environment.

        Variables that are probably misspelt are told to the log.

        Raises:
            ConfigError: A value is malformed. One line for each such variable, naming it and
                what to put there, never the value.
        """
        loaded = cls.read(**values)
        for warning in loaded.warnings:
            _log.warning("%s", warning)
        return loaded

    @classmethod
    def read(cls, **values: str) -> Settings:
        """As `load`, but nothing is logged: `warnings` are the caller's to show."""
        return cls._checked({**environment(), **values}, looked_in=env_path())

    @classmethod
    def of(cls, **values: str) -> Settings:
        """Settings of these variables alone, whatever the environment says.

        Raises:
            ConfigError: As `load`.
        """
        return cls._checked(values)

    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # the others go unused
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        **_: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is given alone: `environment.py` reads the variables, by one rule for all."""
        return (init_settings,)

    @classmethod
    def _checked(
        cls,
        variables: Mapping[str, str],
        shown: Callable[[str], str] = str,
        looked_in: Path | None = None,
    ) -> Settings:
        """The settings of these variables.

        Args:
            variables: By their names without the prefix of a named destination.
            shown: The name of a variable as people have set it.
            looked_in: The `.env` that was searched.

        Raises:
            ConfigError: Some are malformed: a line for each.
        """
        given = tidied(variables)
        wrong = problems(given)
        lines = [_complaint(name, what, shown) for name, what in wrong.items()]
        values = {name: given[name] for name in ALIASES if name in given and name not in wrong}
        try:
            found = Settings(**values)  # type: ignore[arg-type]  # text, which the fields read
        except ValidationError as exc:
            errors = exc.errors()
            lines += [_complaint(str(one["loc"][0]), one["msg"], shown) for one in errors]
        if lines:
            raise ConfigError("\n".join(lines))
        found._environment = given
        found._looked_in = looked_in
        use_umask(found.umask)
        return found

    @property
    def environment(self) -> Mapping[str, str]:
        """All variables, for conventions that are not ours (`OTEL_*`). Holds secrets."""
        return self._environment

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence for each variable that was probably meant for us and that nothing reads."""
        return _warnings(self) if self._looked_in else ()

    def named(self, prefix: str) -> Settings:
        """These settings, where variables that begin with `prefix` stand in the place of the
        same ones without it; destinations have no others. `BK_PIPELINE_` is not said twice:
        `BK_PIPELINE_TEMPO_OTLP_ACCOUNT` stands for `BK_PIPELINE_OTLP_ACCOUNT`.

        Raises:
            ConfigError: As `load`.
        """
        own = {
            name.removeprefix(prefix): value
            for name, value in self._environment.items()
            if name.startswith(prefix)
        }
        own |= {f"{OURS}{name}": value for name, value in own.items() if f"{OURS}{name}" in ALIASES}
        ours = {
            name: value
            for name, value in self._environment.items()
            if name == SDK_DISABLED or not name.startswith(OTHERS)
        }

        def shown(name: str) -> str:
            return f"{prefix}{name.removeprefix(OURS)}" if name in own else name

        return self._checked({**ours, **own}, shown, looked_in=self._looked_in)

    def changed(self, variables: Mapping[str, str]) -> Settings:
        """Return these settings with other values of some variables; empty ones are unset.

        Raises:
            ConfigError: As `load`.
        """
        return self._checked({**self._environment, **variables}, looked_in=self._looked_in)

    @property
    def instance(self) -> str:
        """The pipeline's name; empty if it has its code location to itself."""
        return self.name or "_".join(self.key_prefix)

    @property
    def storage(self) -> str:
        """The data directory: an absolute path, or a URI."""
        if self.data_dir is None:
            return str(self._default_folder)
        place = self.data_dir if "://" in self.data_dir else str(_absolute(self.data_dir))
        return f"{place.rstrip('/')}/{OF_NAMED}/{self.instance}" if self.instance else place

    @property
    def _default_folder(self) -> Path:
        folder = _beside_dagster() / ".bk_pipeline"
        return folder / OF_NAMED / self.instance if self.instance else folder

    @property
    def ledger_path(self) -> Path:
        """The ledger's file. It needs a real disk, and so stays here if the data do not."""
        here = self.data_dir is not None and "://" not in self.data_dir
        return (Path(self.storage) if here else self._default_folder) / "ledger.sqlite"

    def refuse_lone_ledger(self) -> None:
        """Do nothing if the ledger is where the data are, or in a database.

        Raises:
            ConfigError: The data are in an object store, and the ledger is a file on this host.
        """
        url = self.ledger_url.get_secret_value() if self.ledger_url else SQLITE
        scheme, separator, _ = self.storage.partition("://")
        if not separator or scheme == "file" or not url.startswith(SQLITE):
            return
        if not self.ledger_on_this_host:
            raise ConfigError(
                f"BK_PIPELINE_DATA_DIR is in an object store ({scheme}://), and the ledger would be "
                "a file on this host, which a new container or another host does not have. Set "
                "BK_PIPELINE_LEDGER_URL to a PostgreSQL database; or, if this host alone delivers "
                "and keeps its disk, set BK_PIPELINE_LEDGER_ON_THIS_HOST=1."
            )

    @property
    def quota_path(self) -> Path:
        """Where the processes of this host keep what they know of Buildkite's rate limits."""
        return self.ledger_path.with_name("buildkite-quota.json")

    def require_buildkite(self) -> tuple[str, str]:
        """The organization's slug and the API token.

        Raises:
            ConfigError: One of them is not set.
        """
        if self.buildkite_api_token is None:
            raise ConfigError(
                "BUILDKITE_API_TOKEN is not set. Create a token with the scope read_builds "
                "under Personal Settings > API Access Tokens in Buildkite and "
                f"{self._put('it')}."
            )
        if self.buildkite_organization_slug is None:
            raise ConfigError(
                "BUILDKITE_ORGANIZATION_SLUG is not set. Take your organization's name as it "
                "stands in Buildkite URLs, acme if they begin with https://buildkite.com/acme, and "
                f"{self._put('it')}."
            )
        return self.buildkite_organization_slug, self.buildkite_api_token.get_secret_value()

    def require_honeycomb(self) -> str:
        """The Honeycomb API key.

        Raises:
            ConfigError: It is not set.
        """
        if self.honeycomb_api_key is None:
            raise ConfigError(
                "HONEYCOMB_API_KEY is not set. Create an ingest key under Environment Settings > "
                f"API Keys in Honeycomb and {self._put('it')}."
            )
        return self.honeycomb_api_key.get_secret_value()

    def require_configuration_key(self) -> str:
        """The Honeycomb configuration key.

        Raises:
            ConfigError: It is not set.
        """
        if self.honeycomb_configuration_key is None:
            raise ConfigError(
                "HONEYCOMB_CONFIGURATION_KEY is not set. Markers need a configuration key with the "
                "permission Manage Markers, which no ingest key has: create one under Environment "
                f"Settings > API Keys > Configuration in Honeycomb and {self._put('it')}."
            )
        return self.honeycomb_configuration_key.get_secret_value()

    def require_markers(self) -> Path:
        """The file of rules for markers.

        Raises:
            ConfigError: None is named.
        """
        if self.markers is None:
            raise ConfigError(
                "BK_PIPELINE_MARKERS is not set. Write a file of rules (docs/markers.md has ready "
                f"ones) and {self._put('its path')}."
            )
        return _absolute(str(self.markers))

    def _put(self, what: str) -> str:
        """Where to put a variable that is missing, and that it was searched for there."""
        if self._looked_in is None:
            return f"set it to {what}" if what != "it" else "set it"
        state = "which does not set it" if self._looked_in.is_file() else "which does not exist"
        return f"put {what} into {self._looked_in}, {state}, or export it"


ALIASES = {str(field.alias): field for field in Settings.model_fields.values()}


def _complaint(variable: str, wanted: str, shown: Callable[[str], str]) -> str:
    field = ALIASES.get(variable)
    meaning = f" It is: {field.description}" if field else ""
    wanted = wanted.removeprefix("Value error, ")
    return f"{shown(variable)} is malformed: {wanted}.{meaning}"


def _warnings(settings: Settings) -> tuple[str, ...]:
    """What is set in vain."""
    prefixes = tuple(
        f"{OURS}{one.partition(':')[2].upper()}_" for one in settings.destinations if ":" in one
    )
    exported = {name for name, value in os.environ.items() if value.strip()}
    file = {name for name, value in env_file().items() if value.strip()}
    found = unknown(exported, file, settings=ALIASES, prefixes=prefixes)
    given = settings.environment
    endpoints = [name for name in given if name.startswith(OTLP) and name.endswith("ENDPOINT")]
    if given.get(SDK_DISABLED, "").lower() == "true" and endpoints:
        found.append(
            f"{SDK_DISABLED} is true: nothing is sent by OTLP, although an endpoint is set."
        )
    return tuple(found)


def _absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()


def _beside_dagster() -> Path:
    home = os.environ.get("DAGSTER_HOME")
    return _absolute(home).parent if home else Path().absolute()
