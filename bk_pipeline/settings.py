"""All settings, read once from the environment or `.env` and immutable.

To add a setting, add a field here and a line to `.env.example`, and run `make docs`:
docs/settings.md is generated from this class. A setting keeps its established name where one exists
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

from bk_pipeline.display import BUILDKITE, Log, web_host
from bk_pipeline.environment import (
    OTLP,
    OURS,
    SDK_DISABLED,
    SERVICE_NAME_ALIAS,
    SERVICE_NAME_VARIABLE,
    SERVICE_TEMPLATE_VARIABLE,
    env_file,
    env_path,
    environment,
    names_service,
    trimmed,
    unknown,
    value_problems,
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
    ServiceTemplate,
    Slug,
    Umask,
    Zone,
)

# Prefixes of variables that a named destination does not inherit.
DESTINATION_PREFIXES = (
    "HONEYCOMB_",
    "OTEL_",
    "BK_PIPELINE_OTLP_MAX_AGE",
    "BK_PIPELINE_OTLP_METRICS_MAX_AGE",
)
SQLITE = "sqlite:"
# Folder of the data directory in which each named pipeline has one.
OF_NAMED = "pipelines"
_log = Log(logging.getLogger(__name__))


class Settings(BaseSettings):
    """The whole configuration. Make one with `Settings.load()`; hand it on, never re-read."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
    )

    _environment: dict[str, str] = PrivateAttr(default_factory=dict)
    _searched_env_file: Path | None = PrivateAttr(None)

    buildkite_api_token: BuildkiteToken | None = Field(
        None,
        alias="BUILDKITE_API_TOKEN",
        description="Buildkite API access token with the scope `read_builds`. Optional scopes: "
        "`read_organizations` adds `buildkite.organization.id` and `.name` to spans, `read_clusters` "
        "adds `buildkite.cluster.name` and `.graphql_id`; with BK_PIPELINE_JOB_DETAILS, "
        "`read_build_logs` is for logs and `read_artifacts` for test results and profiles.",
    )
    buildkite_organization_slug: Slug | None = Field(
        None,
        alias="BUILDKITE_ORGANIZATION_SLUG",
        description="The organization's slug in Buildkite URLs, like `acme` in "
        "`https://buildkite.com/acme`.",
    )
    buildkite_api_url: BuildkiteUrl = Field(
        "https://api.buildkite.com",
        alias="BUILDKITE_API_URL",
        description="Base URL of the Buildkite REST API. Reports and markers link only to HTTPS pages of "
        "`buildkite.com` and of this host (without a leading `api.`).",
    )
    honeycomb_api_key: HoneycombKey | None = Field(
        None,
        alias="HONEYCOMB_API_KEY",
        description="Honeycomb ingest key, or a configuration key with permission to send events. "
        "If it is set, spans are sent to Honeycomb.",
    )
    honeycomb_configuration_key: HoneycombKey | None = Field(
        None,
        alias="HONEYCOMB_CONFIGURATION_KEY",
        description="Honeycomb configuration key with the permission Manage Markers, for "
        "`BK_PIPELINE_MARKERS`, and those that docs/honeycomb.md lists, for `bk-pipeline honeycomb`. "
        "Ingest keys cannot create markers or boards.",
    )
    honeycomb_api_endpoint: HoneycombUrl = Field(
        "https://api.honeycomb.io",
        alias="HONEYCOMB_API_ENDPOINT",
        description="URL of Honeycomb's API. EU region: `https://api.eu1.honeycomb.io`.",
    )
    honeycomb_dataset: Dataset = Field(
        "buildkite",
        alias="HONEYCOMB_DATASET",
        description="Honeycomb dataset for the spans; also their `service.name`.",
    )
    honeycomb_triggers: bool = Field(
        default=False,
        alias="BK_PIPELINE_HONEYCOMB_TRIGGERS",
        description="Whether `bk-pipeline honeycomb` also creates two triggers: jobs wait long for "
        "agents, and the main branch fails (docs/honeycomb.md).",
    )
    honeycomb_slo: bool = Field(
        default=False,
        alias="BK_PIPELINE_HONEYCOMB_SLO",
        description="Whether `bk-pipeline honeycomb` also creates an SLO: jobs get an agent in time "
        "(docs/honeycomb.md).",
    )
    destinations: Globs = Field(
        (),
        alias="BK_PIPELINE_DESTINATIONS",
        description="Destinations of the spans: `honeycomb`, `otlp`, `otlp_metrics`. To have several "
        "of a kind, name them, like `honeycomb,otlp,otlp:tempo`. The variables of `otlp:tempo` begin "
        "with `BK_PIPELINE_TEMPO_`, like `BK_PIPELINE_TEMPO_OTEL_EXPORTER_OTLP_ENDPOINT`. Default: "
        "`honeycomb` if its key is set, `otlp` and `otlp_metrics` if their endpoint is set.",
    )
    otlp_account: Slug | None = Field(
        None,
        alias="BK_PIPELINE_OTLP_ACCOUNT",
        description="Label of the account that an OTLP endpoint's credentials belong to, like "
        "`team-a`; part of the destination's id in the ledger. Needed only if two destinations have "
        "the same URL and differ only in their keys. For `otlp:tempo`: "
        "`BK_PIPELINE_TEMPO_OTLP_ACCOUNT`.",
    )
    honeycomb_max_age_days: Annotated[int, Field(ge=0, le=36_500)] = Field(
        60,
        alias="BK_PIPELINE_HONEYCOMB_MAX_AGE_DAYS",
        description="Spans older than this are counted but not sent: Honeycomb accepts and bills "
        "spans beyond its retention (60 days on most plans), but never shows them. 0: send all.",
    )
    otlp_max_age: Age | None = Field(
        None,
        alias="BK_PIPELINE_OTLP_MAX_AGE",
        description="Spans older than this, like `90m`, `24h` or `60d`, are counted but not sent to "
        "an OTLP endpoint; `0`: send all. Default: the known limit of its host (Dynatrace: 60 "
        "minutes after a span's end; New Relic, Sumo Logic, Yandex Monium: 24 hours; Honeycomb: "
        "`BK_PIPELINE_HONEYCOMB_MAX_AGE_DAYS`), otherwise send all. For `otlp:tempo`: "
        "`BK_PIPELINE_TEMPO_OTLP_MAX_AGE`.",
    )
    otlp_metrics_max_age: Age | None = Field(
        None,
        alias="BK_PIPELINE_OTLP_METRICS_MAX_AGE",
        description="Like `BK_PIPELINE_OTLP_MAX_AGE`, for metrics only. Default: "
        "`BK_PIPELINE_OTLP_MAX_AGE`, otherwise the known limit of the host (Dynatrace, Honeycomb).",
    )
    markers: Path | None = Field(
        None,
        alias="BK_PIPELINE_MARKERS",
        description="Path of a TOML file with rules that select the builds and jobs to mark in "
        "Honeycomb; docs/markers.md has examples. Default: no markers.",
    )
    sampling: Path | None = Field(
        None,
        alias="BK_PIPELINE_SAMPLING",
        description="Path of a TOML file with rules that decide which builds are sent, each with a "
        "rate; docs/sampling.md has examples. Failed builds are kept unless a rule is about them, and "
        "metrics count all builds. Default: every build is sent.",
    )
    trace_id_style: Literal["otel", "buildevents"] = Field(
        "otel",
        alias="BK_PIPELINE_TRACE_ID_STYLE",
        description="With `buildevents`, the Honeycomb loader uses the dashed build UUID as trace id "
        "and as the root's span id, so that spans sent by `buildevents` within jobs join these "
        "traces, and adds the columns that `buildevents` writes (docs/alternatives.md).",
    )
    costs: Path | None = Field(
        None,
        alias="BK_PIPELINE_COSTS",
        description="Path of a TOML file with prices by minute for queues or agent tags, which gives "
        "spans the attributes `bk_pipeline.cost` and so on; docs/cost.md has examples. Default: no "
        "costs.",
    )
    deployments: Path | None = Field(
        None,
        alias="BK_PIPELINE_DEPLOYMENTS",
        description="Path of a TOML file with rules that say which builds and jobs are deployments "
        "and rollbacks, for DORA's four keys; docs/deployments.md has examples. Default: none.",
    )
    job_details: Path | None = Field(
        None,
        alias="BK_PIPELINE_JOB_DETAILS",
        description="Path of a TOML file that says of which jobs logs, test results and profiles are "
        "read, for spans inside of jobs; docs/inside-jobs.md has examples. Default: none are read.",
    )
    deliver_guarantee: Literal["at_least_once", "at_most_once"] = Field(
        "at_least_once",
        alias="BK_PIPELINE_DELIVER_GUARANTEE",
        description="How to treat batches without a response: `at_least_once` sends them again, so "
        "that no span is lost but some may be duplicated; `at_most_once` counts them as sent.",
    )
    data_dir: str | None = Field(
        None,
        alias="BK_PIPELINE_DATA_DIR",
        description="Folder of the raw store, the span table and the ledger, or the URI of an "
        "object store (s3://…, gs://…) for the first two. Default: `.bk_pipeline` next to "
        "`DAGSTER_HOME`, or in the working directory if that is not set.",
    )
    umask: Umask = Field(
        0o077,
        alias="BK_PIPELINE_UMASK",
        description="Umask of new local files and folders, in octal: `077` gives access to their "
        "owner only, `027` lets the group read. Existing files are not changed; "
        "`bk-pipeline doctor` reports a data folder that others can read.",
    )
    ledger_url: DatabaseUrl | None = Field(
        None,
        alias="BK_PIPELINE_LEDGER_URL",
        description="Database of the delivery ledger, like "
        "`postgresql://user:password@host:5432/database`; needed if several hosts deliver. "
        "Default: the file `ledger.sqlite` in the data folder.",
    )
    ledger_on_this_host: bool = Field(
        default=False,
        alias="BK_PIPELINE_LEDGER_ON_THIS_HOST",
        description="Whether the ledger may be a file on this host although the data is in an "
        "object store. Set it only if the disk outlives the container and no other host delivers: "
        "without its ledger, delivery stops until you decide what has been delivered.",
    )
    start_date: Day = Field(
        date(2026, 1, 1),
        alias="BK_PIPELINE_START_DATE",
        description="First day that can be materialized, like `2026-01-31`. Buildkite keeps builds "
        "for 30, 90 or 365 days, depending on the plan.",
    )
    timezone: Zone = Field(
        ZoneInfo("UTC"),
        alias="BK_PIPELINE_TIMEZONE",
        description="Time zone of the daily partitions. Set it once: changing it moves the "
        "boundaries of the days.",
    )
    pipelines: Globs = Field(
        (),
        alias="BK_PIPELINE_PIPELINES",
        description="Pipelines to extract: slugs or globs separated by commas or spaces, like "
        "`web-*,deploy`; a leading `!` excludes. Default: all.",
    )
    branches: Globs = Field(
        (),
        alias="BK_PIPELINE_BRANCHES",
        description="Branches whose builds to extract: names or globs separated by commas or "
        "spaces, like `main,release/*`; a leading `!` excludes. Default: all.",
    )

    spans_drop: Globs = Field(
        (),
        alias="BK_PIPELINE_SPANS_DROP",
        description="Span attributes that are never sent: names or globs separated by commas or "
        "spaces, like `buildkite.build.creator.*,*.email`. Attributes that copy them are dropped "
        "too; see docs/privacy.md.",
    )
    spans_hash: Globs = Field(
        (),
        alias="BK_PIPELINE_SPANS_HASH",
        description="Span attributes whose values are replaced with 16 hex digits of their SHA-256: "
        "names or globs, like `buildkite.agent.hostname`. Numbers are dropped.",
    )
    spans_mask: Pattern = Field(
        "",
        alias="BK_PIPELINE_SPANS_MASK",
        repr=False,  # it may be the very text that is to be masked
        description="A Python regular expression. Its matches in commands, messages and other text "
        "are replaced with `[masked]`.",
    )
    spans_mask_secrets: bool = Field(
        default=True,
        alias="BK_PIPELINE_SPANS_MASK_SECRETS",
        description="Whether to mask text that looks like a token, a private key, or a password in a "
        "URL or command; docs/privacy.md lists the recognized patterns.",
    )
    spans_waits: bool = Field(
        default=False,
        alias="BK_PIPELINE_SPANS_WAITS",
        description="Whether a job that waited for an agent has an additional span "
        "`buildkite.job.wait` for that time. Each span is billed; the wait is also an attribute of "
        "the job.",
    )
    spans_links: bool = Field(
        default=True,
        alias="BK_PIPELINE_SPANS_LINKS",
        description="Whether spans link to the builds that triggered them, to the build they "
        "rebuild, to the attempt that a retry replaces, and to the span that `TRACEPARENT` in the "
        "build's environment names. Honeycomb bills each link.",
    )
    spans_conventions: bool = Field(
        default=True,
        alias="BK_PIPELINE_SPANS_CONVENTIONS",
        description="Whether spans have the attributes of OpenTelemetry's semantic conventions, "
        "`cicd.*` and `vcs.*`, in addition to Buildkite's own, and whether metrics `cicd.*` are sent.",
    )
    spans_service_name: ServiceTemplate | None = Field(
        None,
        alias="BK_PIPELINE_SPANS_SERVICE_NAME",
        description="Template that makes each pipeline a service of its own: the `service.name` of its "
        "spans, like `ci-{pipeline}`. `{pipeline}` and `{organization}` stand for the slugs, as the "
        "privacy settings leave them. Takes precedence over `OTEL_SERVICE_NAME`, which still names the "
        "metrics. Default: one service for all pipelines; see docs/backends.md for what each backend "
        "shows.",
    )
    spans_critical_path: bool = Field(
        default=True,
        alias="BK_PIPELINE_SPANS_CRITICAL_PATH",
        description="Whether spans have the attributes of the critical path, "
        "`bk_pipeline.critical_path*` and `bk_pipeline.slack_ms` (docs/critical-path.md).",
    )
    spans_export: Literal["finished", "settled"] = Field(
        "finished",
        alias="BK_PIPELINE_SPANS_EXPORT",
        description="When to create a build's spans: `finished`, each time it finishes, or "
        "`settled`, once it has been finished and not blocked for "
        "`BK_PIPELINE_SPANS_SETTLED_HOURS`. Settled builds leave with the next run of their day, "
        "at the latest with the schedule `nightly_reconcile`, which must be on.",
    )
    spans_settled_hours: Annotated[int, Field(ge=1, le=720)] = Field(
        24,
        alias="BK_PIPELINE_SPANS_SETTLED_HOURS",
        description="Hours after which a finished build counts as settled, for "
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
        description="Seconds between two polls of the sensor; each costs a request.",
    )
    sensor_active_runs: bool = Field(
        default=False,
        alias="BK_PIPELINE_SENSOR_ACTIVE_RUNS",
        description="Whether each poll of the sensor also sends how many builds are active, as the "
        "metric `cicd.pipeline.run.active`, to the destinations `otlp_metrics`. It costs an "
        "additional request to Buildkite per poll and 100 active builds; see docs/metrics.md.",
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
        description="Percentage of the organization's requests per minute to leave to its other "
        "users. When no more than that remain, runs wait for the next minute.",
    )
    self_tracing: bool = Field(
        default=False,
        alias="BK_PIPELINE_SELF_TRACING",
        description="Whether the pipeline's own runs are traced, as the service `bk_pipeline`, to "
        "the endpoint of `OTEL_EXPORTER_OTLP_*`: days, windows, requests, waits, batches. The "
        "trace id is the id of the Dagster run.",
    )
    http_deadline_s: Annotated[float, Field(ge=0, le=86_400)] = Field(
        300.0,
        alias="BK_PIPELINE_HTTP_DEADLINE_S",
        description="Seconds for which a failing request to Buildkite or a destination is retried "
        "before the run fails.",
    )

    @classmethod
    def load(cls, **values: str) -> Settings:
        """The settings of this process; `values` take precedence over the environment.

        Variables that are probably misspelt are logged as warnings.

        Raises:
            ConfigError: Values are malformed. The message has one line per variable: its name
                and what to set it to, never the value.
        """
        loaded = cls.read(**values)
        for warning in loaded.warnings:
            _log.warning(warning)
        return loaded

    @classmethod
    def read(cls, **values: str) -> Settings:
        """Like `load`, but without logging: the caller shows `warnings`."""
        return cls._checked({**environment(), **values}, env_file_path=env_path())

    @classmethod
    def of(cls, **values: str) -> Settings:
        """Settings from these variables only; the environment is not read.

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
        """Only the given values: `environment.py` reads the variables, with one rule for all."""
        return (init_settings,)

    @classmethod
    def _checked(
        cls,
        variables: Mapping[str, str],
        shown: Callable[[str], str] = str,
        env_file_path: Path | None = None,
    ) -> Settings:
        """The settings of these variables.

        Args:
            variables: By their names without the prefix of a named destination.
            shown: The name of a variable as people have set it.
            env_file_path: The `.env` that was searched.

        Raises:
            ConfigError: Some are malformed: a line for each.
        """
        given = trimmed(variables)
        wrong = value_problems(given)
        lines = [_error_line(name, what, shown) for name, what in wrong.items()]
        values = {name: given[name] for name in ALIASES if name in given and name not in wrong}
        try:
            found = Settings(**values)  # type: ignore[arg-type]  # text, which the fields read
        except ValidationError as exc:
            errors = exc.errors()
            lines += [_error_line(str(one["loc"][0]), one["msg"], shown) for one in errors]
        if lines:
            raise ConfigError("\n".join(lines))
        found._environment = given
        found._searched_env_file = env_file_path
        use_umask(found.umask)
        return found

    @property
    def environment(self) -> Mapping[str, str]:
        """All variables, for standards like `OTEL_*`. Holds secrets."""
        return self._environment

    @property
    def buildkite_hosts(self) -> frozenset[str]:
        """The hosts of Buildkite's web pages: its own, and that of a proxy of the API."""
        return frozenset({BUILDKITE, web_host(self.buildkite_api_url)})

    @property
    def trace_hosts(self) -> frozenset[str]:
        """The host of Honeycomb's web pages."""
        return frozenset({web_host(self.honeycomb_api_endpoint, "ui.")})

    @property
    def warnings(self) -> tuple[str, ...]:
        """A message for each variable that is probably a misspelt setting."""
        return _warnings(self) if self._searched_env_file else ()

    def for_destination(self, prefix: str) -> Settings:
        """The settings of a named destination.

        A variable with `prefix` overrides the same variable without it, and a service name with
        `prefix` overrides a template without it. Variables of other destinations are ignored.
        `BK_PIPELINE_` is not repeated:
        `BK_PIPELINE_TEMPO_OTLP_ACCOUNT` overrides `BK_PIPELINE_OTLP_ACCOUNT`.

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
            if name == SDK_DISABLED or not name.startswith(DESTINATION_PREFIXES)
        }
        if names_service(own):
            ours.pop(SERVICE_TEMPLATE_VARIABLE, None)

        def shown(name: str) -> str:
            return f"{prefix}{name.removeprefix(OURS)}" if name in own else name

        return self._checked({**ours, **own}, shown, env_file_path=self._searched_env_file)

    def changed(self, variables: Mapping[str, str]) -> Settings:
        """Return these settings with other values of some variables; empty ones are unset.

        Raises:
            ConfigError: As `load`.
        """
        return self._checked(
            {**self._environment, **variables}, env_file_path=self._searched_env_file
        )

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
        folder = _default_parent() / ".bk_pipeline"
        return folder / OF_NAMED / self.instance if self.instance else folder

    @property
    def ledger_path(self) -> Path:
        """Path of the SQLite ledger; local even if the data is in an object store."""
        here = self.data_dir is not None and "://" not in self.data_dir
        return (Path(self.storage) if here else self._default_folder) / "ledger.sqlite"

    def check_ledger_location(self) -> None:
        """Check that the ledger cannot be separated from the data.

        Raises:
            ConfigError: The data is in an object store, the ledger is a file on this host, and
                `ledger_on_this_host` is not set.
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
        """Path of the file in which this host's processes share Buildkite's rate limits."""
        return self.ledger_path.with_name("buildkite-quota.json")

    @property
    def names_lock_path(self) -> Path:
        """Path of the file that this host's processes lock to ask for the organization's names."""
        return self.ledger_path.with_name("buildkite-names.lock")

    def require_buildkite(self) -> tuple[str, str]:
        """The organization's slug and the API token.

        Raises:
            ConfigError: One of them is not set.
        """
        if self.buildkite_api_token is None:
            raise ConfigError(
                "BUILDKITE_API_TOKEN is not set. Create a token with the scope read_builds "
                "under Personal Settings > API Access Tokens in Buildkite and "
                f"{self._how_to_set('it')}."
            )
        if self.buildkite_organization_slug is None:
            raise ConfigError(
                "BUILDKITE_ORGANIZATION_SLUG is not set. Use the organization's slug in "
                "Buildkite URLs, acme in https://buildkite.com/acme, and "
                f"{self._how_to_set('it')}."
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
                f"API Keys in Honeycomb and {self._how_to_set('it')}."
            )
        return self.honeycomb_api_key.get_secret_value()

    def require_configuration_key(self, needed: str) -> str:
        """The Honeycomb configuration key.

        Args:
            needed: The permissions that it needs and where to create it, for the error.

        Raises:
            ConfigError: It is not set.
        """
        if self.honeycomb_configuration_key is None:
            raise ConfigError(
                f"HONEYCOMB_CONFIGURATION_KEY is not set. {needed} and {self._how_to_set('it')}."
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
                f"ones) and {self._how_to_set('its path')}."
            )
        return _absolute(str(self.markers))

    @property
    def sampling_path(self) -> Path | None:
        """The absolute path of the file of sampling rules, if one is named."""
        return _absolute(str(self.sampling)) if self.sampling else None

    @property
    def costs_path(self) -> Path | None:
        """The absolute path of the file of prices, if one is named."""
        return _absolute(str(self.costs)) if self.costs else None

    @property
    def deployments_path(self) -> Path | None:
        """The absolute path of the file of deployment rules, if one is named."""
        return _absolute(str(self.deployments)) if self.deployments else None

    @property
    def job_details_path(self) -> Path | None:
        """The absolute path of the policy of job details, if one is named."""
        return _absolute(str(self.job_details)) if self.job_details else None

    def _how_to_set(self, what: str) -> str:
        """How to set a missing variable, and in which file it was searched for."""
        if self._searched_env_file is None:
            return f"set it to {what}" if what != "it" else "set it"
        state = (
            "which does not set it" if self._searched_env_file.is_file() else "which does not exist"
        )
        return f"put {what} into {self._searched_env_file}, {state}, or export it"


ALIASES = {str(field.alias): field for field in Settings.model_fields.values()}


def _error_line(variable: str, wanted: str, shown: Callable[[str], str]) -> str:
    field = ALIASES.get(variable)
    meaning = f" It is: {field.description}" if field else ""
    wanted = wanted.removeprefix("Value error, ")
    return f"{shown(variable)} is malformed: {wanted}.{meaning}"


def _warnings(settings: Settings) -> tuple[str, ...]:
    """Messages about variables that have no effect."""
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
    if given.get(SERVICE_NAME_ALIAS):
        found.append(
            f"{SERVICE_NAME_ALIAS} is read as {SERVICE_NAME_VARIABLE}, the standard name, which takes "
            "precedence. Rename it."
        )
    return tuple(found)


def _absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()


def _default_parent() -> Path:
    home = os.environ.get("DAGSTER_HOME")
    return _absolute(home).parent if home else Path().absolute()
