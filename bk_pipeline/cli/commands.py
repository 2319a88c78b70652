"""Every command: its name, arguments and help text.

Importing this module imports no command, so that help does not wait for pyarrow or Dagster. To add
a command, declare it here, and import the module that does the work in its body.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bk_pipeline import __version__
from bk_pipeline.cli.arguments import (
    ASSIGNMENT,
    DAY,
    TIME,
    NoPandas,
    Program,
    Suggesting,
    TakingQuery,
    options,
)

FROM = click.option("--from", "first", type=DAY, help="First day. Default: the first stored.")
TO = click.option("--to", "last", type=DAY, help="Last day, included. Default: the last stored.")
SINCE = click.option("--since", type=DAY, help="First day. Default: 29 days before the last one.")
UNTIL = click.option("--until", type=DAY, help="Last day, included. Default: the last stored.")
OF_DAY = click.option("--day", type=DAY, help="Only items of this day.")
OF_BUILD = click.option("--build", help="Only items of the build with this UUID.")
WITH_REASON = click.option("--reason", help="Only items whose reason contains this text.")
DATASET = click.option(
    "--dataset", help="Dataset, or __all__ for every one. Default: HONEYCOMB_DATASET."
)
RESTORE = click.option(
    "--restore", is_flag=True, help="Create markers again that were deleted in Honeycomb."
)

OUTPUT = click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write, atomically. Default: standard output.",
)
# How a command shows its rows; for `write_result` of `cli/results.py`.
RESULT_OPTIONS = options(
    click.option(
        "--format",
        "format_",
        type=click.Choice(("table", "csv", "json", "parquet")),
        default="table",
        show_default=True,
        help="table: for reading. json: an array of objects, one per line.",
    ),
    OUTPUT,
    click.option(
        "--limit",
        type=click.IntRange(1),
        help="Most rows to show. Default: 100 on a terminal, else all.",
    ),
)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bk-pipeline")
def cli() -> None:
    """Buildkite builds as traces in Honeycomb: extract, transform, load.

    \b
    Try it without an account:            bk-pipeline demo
    See the spans of an API response:     bk-pipeline spans builds.json
    Check your setup:                     bk-pipeline doctor
    Show one build as a waterfall:        bk-pipeline trace web#4182
    Deliver your own builds:              bk-pipeline backfill --from 2026-11-01 --to 2026-11-07

    Settings come from the environment or from a file .env in the working directory;
    .env.example lists them. In the Dagster UI (make dev), you can materialize and backfill the
    same days, and a sensor can keep them up to date.
    """


@cli.command()
@click.option("--days", default=30, show_default=True, type=click.IntRange(1, 366))
@click.option("--builds-per-day", default=60, show_default=True, type=click.IntRange(1, 50_000))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Keep the data there, for questions. It replaces an earlier demo's.",
)
def demo(**options: Any) -> None:
    """Try the pipeline on a local sandbox: no account needed, and no data leaves this machine.

    Starts local stand-ins for Buildkite and Honeycomb, backfills the last DAYS with Dagster,
    delivers them, and shows the results and one build as a waterfall.

    --json prints days, builds, jobs, spans, events_accepted, events_rejected, duplicates,
    requests and seconds. The exit status is 0 only if every event was accepted exactly once.
    """
    from bk_pipeline.cli.demo import demo

    demo(**options)


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8099, show_default=True, help="Port; 0 selects a free one.")
@click.option("--seed", default=1, show_default=True, help="Seed of the generated organization.")
@click.option(
    "--days", default=7, show_default=True, type=click.IntRange(1, 366), help="Days of history."
)
@click.option(
    "--builds-per-day",
    default=40,
    show_default=True,
    type=click.IntRange(1, 50_000),
    help="Builds on a working day.",
)
@click.option(
    "--today",
    type=click.DateTime(["%Y-%m-%d"]),
    help="Last day that has builds (UTC). Default: the current day, with new builds over time.",
)
def sandbox(**options: Any) -> None:
    """Serve local stand-ins for Buildkite and Honeycomb until interrupted.

    The sandbox has a generated organization with DAYS of history and running builds, and a
    Honeycomb that accepts what Honeycomb would accept. It prints `export` lines: paste them into
    a shell, and make dev and bk-pipeline backfill use the sandbox there, with separate data.
    GET /_sandbox/stored returns what has arrived; POST /_sandbox/builds finishes another build.
    """
    from bk_pipeline.cli.demo import sandbox

    sandbox(**options)


@cli.command()
@click.option(
    "--days",
    default=30,
    show_default=True,
    type=click.IntRange(1, 366),
    help="Estimate the cost of a backfill of this many days.",
)
@click.option(
    "--send-test-event",
    is_flag=True,
    help="Also send one event to each Honeycomb dataset. Honeycomb bills it.",
)
def doctor(**options: Any) -> None:
    """Check settings, keys, rate limits, destinations and storage.

    Checks run in the order in which a run needs them, and each prints a result or what to fix.
    The command makes a few small requests to Buildkite and one to each destination. It sends
    no spans and prints no secrets. An event of --send-test-event has the name bk_pipeline.test.

    Exit status 0: nothing failed. 2: a setting is missing or malformed. 1: something else
    failed.
    """
    from bk_pipeline.cli.doctor import doctor

    doctor(**options)


@cli.command()
@click.option("--from", "first", type=DAY, required=True, help="First day, like 2026-11-01.")
@click.option("--to", "last", type=DAY, required=True, help="Last day, included.")
@click.option("--full-refresh", is_flag=True, help="Read the days again even if they are stored.")
@click.option(
    "--resend",
    is_flag=True,
    help="Send spans again that another ledger delivered and this one does not know.",
)
def backfill(**options: Any) -> None:
    """Deliver days of builds from Buildkite to every configured destination.

    Dagster materializes the days one after the other, in this process. The Dagster UI shows
    them if it uses the same DAGSTER_HOME. You can stop the backfill at any time (Ctrl-C): run
    the same command again to continue. A completed day costs one request, and nothing is
    sent twice.

    If a day fails, the other days are still processed. Errors that affect every day, such as a
    refused token or a full disk, end the backfill at once, and so do three failed days in a row.

    Exit status 0: all days are done. 75: some days failed, but may succeed later. 1: some days
    failed for a permanent reason. 2: a setting or argument is wrong. 130: interrupted.
    """
    from bk_pipeline.cli.backfill import backfill

    backfill(**options)


@cli.command()
@click.argument("build", metavar="BUILD")
@click.option(
    "--fetch", is_flag=True, help="Read the build from Buildkite even if it is in the span table."
)
@click.option(
    "--all", "every", is_flag=True, help="Show a line for every job, and for all inside of jobs."
)
def trace(**options: Any) -> None:
    """Show a build as a waterfall of its jobs and waits.

    BUILD is the URL of the build's page (or of its trace in Honeycomb), pipeline#number, a
    number, or a UUID. The build is read from the span table, or from Buildkite if it is not
    there. Links to its trace follow, one for each destination that has trace pages.

    If job details are read (docs/inside-jobs.md), jobs that failed show the failed section of their
    log, the reason, and failed tests, and the critical path its longest sections; --all shows all.

    \b
      bk-pipeline trace https://buildkite.com/acme/web/builds/4182
      bk-pipeline trace web#4182

    Colors are used only on a terminal; set NO_COLOR=1 to turn them off.
    """
    with NoPandas():
        from bk_pipeline.cli.trace import trace

        trace(**options)


@cli.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option(
    "--format",
    "format_",
    type=click.Choice(("ndjson", "table", "parquet")),
    default="ndjson",
    show_default=True,
    help="ndjson: one object per span. table: for reading. parquet: the columns of docs/spans.md.",
)
@OUTPUT
def spans(**options: Any) -> None:
    """Convert responses of Buildkite's builds API to spans, without network access.

    A FILE holds one build object or an array of them, as GET
    /v2/organizations/{org}/builds gives them, or several of either, as jq -c makes them; - is
    standard input. It may be gzipped, and in UTF-8 or UTF-16. Builds that have not finished, or
    never run, give no spans. The privacy settings (BK_PIPELINE_SPANS_*) apply; no other does.

    Exit status 0: every build could be read. 1: some could not; standard error names each, with
    the reason, and the spans of the others are written. Also 1, with nothing written: a file
    cannot be read or is no build answer.

    \b
      curl -H "Authorization: Bearer $TOKEN" \\
        "https://api.buildkite.com/v2/organizations/acme/builds?include_retried_jobs=true" \\
        | bk-pipeline spans --format table -
    """
    with NoPandas():
        from bk_pipeline.cli.spans import spans

        spans(**options)


@cli.group(cls=Suggesting, invoke_without_command=True)
@click.pass_context
def ledger(context: click.Context) -> None:
    """Show deliveries, list and re-queue rejected items, adopt earlier deliveries.

    Without a command, lists the destinations with counts of items (spans, and at Honeycomb
    also links).
    """
    context.with_resource(NoPandas())
    if context.invoked_subcommand is None:
        from bk_pipeline.cli.ledger import destinations

        destinations()


@ledger.command()
@click.argument("destination")
@OF_DAY
@OF_BUILD
@WITH_REASON
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1))
def rejected(**options: Any) -> None:
    """List the items that DESTINATION rejected.

    Columns, separated by tabs: day, trace id, span id, span name, reason.
    """
    from bk_pipeline.cli.ledger import rejected

    rejected(**options)


@ledger.command()
@click.argument("destination")
@OF_DAY
@OF_BUILD
@WITH_REASON
@click.option(
    "--all", "everything", is_flag=True, help="All items that were rejected or presumed sent."
)
def requeue(**options: Any) -> None:
    """Re-queue items that DESTINATION rejected or that are presumed sent.

    To send them, materialize their days. Accepted items are never sent again.
    """
    from bk_pipeline.cli.ledger import requeue

    requeue(**options)


@ledger.command()
@click.argument("destination")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def forget(**options: Any) -> None:
    """Delete all records of DESTINATION. Everything is then sent, and billed, again."""
    from bk_pipeline.cli.ledger import forget

    forget(**options)


@ledger.command()
@click.argument("destinations", nargs=-1)
@FROM
@TO
def adopt(**options: Any) -> None:
    """Mark as delivered what another ledger delivered from this data directory.

    Use this for a ledger that is new, restored from a backup, or moved. Spans that the data
    directory records as delivered are not sent again, and deliveries continue with new spans.
    Applies to all configured destinations, or to those whose assets you name. Sends nothing. To
    send everything again instead, run bk-pipeline backfill --resend.
    """
    from bk_pipeline.cli.ledger import adopt

    adopt(**options)


@cli.group(cls=Suggesting)
def markers() -> None:
    """Mark deploys, failed builds and other events on Honeycomb graphs.

    The rules in the file BK_PIPELINE_MARKERS decide which builds and jobs become markers;
    docs/markers.md has ready-made rules. The asset honeycomb_markers places the markers of each
    day that you materialize. These commands work on all stored days, and preview the changes.
    """


@markers.command("list")
@click.option(
    "--all", "include_others", is_flag=True, help="Include markers that other clients created."
)
def listed(**options: Any) -> None:
    """List the markers that bk-pipeline created, as Honeycomb has them now.

    Prints one line per marker, separated by tabs: dataset, rule, id, start, end, type, message,
    URL. For a marker that was deleted in Honeycomb: dataset, rule, id, "deleted in Honeycomb".
    """
    from bk_pipeline.cli.markers import listed

    listed(**options)


@markers.command()
@FROM
@TO
@RESTORE
def plan(**options: Any) -> None:
    """Preview what apply and prune would do. Changes nothing.

    Prints one line per marker, separated by tabs: action, day, dataset, rule, start, message.
    A line of counts follows.
    """
    from bk_pipeline.cli.markers import plan

    plan(**options)


@markers.command()
@FROM
@TO
@RESTORE
def apply(**options: Any) -> None:
    """Create and change markers according to the rules, and set the colors of their types."""
    from bk_pipeline.cli.markers import apply

    apply(**options)


@markers.command()
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def prune(**options: Any) -> None:
    """Delete the markers that no rule requires any more.

    These are markers of rules that were removed or changed, and of builds that no longer match.
    Markers that other clients created are never deleted.
    """
    from bk_pipeline.cli.markers import prune

    prune(**options)


@markers.command()
@click.option("--message", help="Default: pipeline, number and step of the current Buildkite job.")
@click.option("--type", "kind", default="deploy", show_default=True, help="Type of the marker.")
@click.option("--url", help="Link of the marker. Default: the page of the current Buildkite job.")
@click.option("--start", type=TIME, help="Start; Unix seconds or RFC 3339. Default: now.")
@click.option("--end", type=TIME, help="End, for a range of time. Default: a single moment.")
@DATASET
def add(**options: Any) -> None:
    """Create one marker now, for example from a step that deploys. Prints its id.

    Needs no rules and no stored builds: only the key in HONEYCOMB_CONFIGURATION_KEY. The rules
    do not change or delete the marker.
    """
    from bk_pipeline.cli.markers import add

    add(**options)


@markers.command()
@click.argument("marker_id", metavar="ID")
@DATASET
def delete(**options: Any) -> None:
    """Delete one marker, by the id that `add` or `list` printed."""
    from bk_pipeline.cli.markers import delete

    delete(**options)


@cli.group(cls=Suggesting)
def honeycomb() -> None:
    """Set up Honeycomb: a board of builds, column descriptions, calculated fields, alerts.

    Everything is made for the dataset HONEYCOMB_DATASET, with HONEYCOMB_CONFIGURATION_KEY.
    docs/honeycomb.md has the queries and the permissions that the key needs. Nothing that others
    made is changed or deleted.
    """


@honeycomb.command("plan")
def plan_setup() -> None:
    """Preview what apply and prune would do. Changes nothing.

    Prints one line per item, separated by tabs: action, kind, name, and what is different. A line
    of counts follows. After a change by hand in Honeycomb, it shows what apply would restore.
    """
    with NoPandas():
        from bk_pipeline.cli.honeycomb import plan

        plan()


@honeycomb.command("apply")
def apply_setup() -> None:
    """Create what is missing, and restore what was changed. Deletes nothing that you see.

    Prints the lines of plan as they are done, and the address of the board. If it is
    interrupted, run it again.
    """
    with NoPandas():
        from bk_pipeline.cli.honeycomb import apply

        apply()


@honeycomb.command("prune")
@click.option("--all", "everything", is_flag=True, help="Delete all that apply made.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def prune_setup(**options: Any) -> None:
    """Delete what apply made and the settings do not require any more.

    Deletes only what has the name and the tag that apply gave it. Columns and the dataset stay,
    because they hold data.
    """
    with NoPandas():
        from bk_pipeline.cli.honeycomb import prune

        prune(**options)


@cli.command()
@FROM
@TO
def sampling(**options: Any) -> None:
    """Preview what the sampling rules keep, and what that costs. Sends nothing.

    Applies the rules in the file BK_PIPELINE_SAMPLING to the stored spans. For each rule: its
    rate, the builds, spans and events (spans and links, which Honeycomb bills) that it decides
    about, and how many of them would be sent. "(no rule)" are failed builds and others that no
    rule matches; all of them are sent. docs/sampling.md describes the rules.
    """
    with NoPandas():
        from bk_pipeline.cli.sampling import sampling

        sampling(**options)


@cli.command(cls=TakingQuery)
@click.argument("query", required=False)
@click.option(
    "--file",
    type=click.Path(path_type=Path),
    help="Read the query from a file; - is standard input.",
)
@click.option(
    "--param",
    "parameters",
    metavar="NAME=VALUE",
    multiple=True,
    type=ASSIGNMENT,
    help="The value of a parameter $NAME of the query. Can be repeated.",
)
@RESULT_OPTIONS
@click.option(
    "--memory",
    "memory_mib",
    metavar="MIB",
    default=1024,
    show_default=True,
    type=click.IntRange(64),
    help="Memory for the query, before it uses temporary files.",
)
def sql(**options: Any) -> None:
    """Query the stored builds in SQL (DuckDB's dialect). Changes nothing.

    The views builds, jobs and steps have a row per build, job and step, with short column names,
    sections and tests one per section of a log and test result, where job details are read; spans
    has the whole span table. If a build is stored more than once, its newest state counts.
    Each view has a column day: a query that compares it with a date reads only those days' files.
    docs/sql.md describes the columns, and has queries to start from.

    Only one SELECT (or WITH, FROM, DESCRIBE, SUMMARIZE) runs at a time, and without access to
    files, the network and the environment.

    Exit status 2: the query is wrong. 1: it cannot be answered.

    \b
      bk-pipeline sql "DESCRIBE builds"
      bk-pipeline sql "SELECT number, run_s FROM builds WHERE day >= '2026-11-01'"
      bk-pipeline sql --file examples/sql/slowest_steps.sql --format csv
    """
    with NoPandas():
        from bk_pipeline.cli.sql import sql

        sql(**options)


@cli.command()
@SINCE
@UNTIL
@click.option(
    "--queue",
    multiple=True,
    metavar="GLOB",
    help="Only queues that match, by name or as CLUSTER/NAME; can be repeated. Default: all.",
)
@click.option(
    "--agents",
    metavar="CHANGE",
    help="Replay with other numbers of agents: +10, -5, +50%, or 20 for exactly 20.",
)
@click.option(
    "--by",
    type=click.Choice(("hour", "date-hour")),
    help="A row for each hour of the day, or for each hour of the period.",
)
@RESULT_OPTIONS
def queues(**options: Any) -> None:
    """Show where jobs wait for agents, and whether more agents would help.

    For each queue: the jobs that arrived, how many waited and ran, how long they waited, how many
    agents were seen, and how busy they were. Averages are over the hours with waiting or running
    jobs. Hours are in BK_PIPELINE_TIMEZONE.

    --agents replays the recorded jobs with other numbers of agents in the queues that --queue
    chooses, and says how waits, builds and their critical paths would change, and how exact that
    is. docs/queues.md describes how.

    \b
      bk-pipeline queues
      bk-pipeline queues --queue 'linux-*' --by hour
      bk-pipeline queues --queue linux-large --agents +10
    """
    with NoPandas():
        from bk_pipeline.cli.queues import queues

        queues(**options)


@cli.command()
@SINCE
@UNTIL
@click.option("--pipeline", metavar="GLOB", default="*", help="Only pipelines that match.")
@click.option("--branch", metavar="GLOB", default="*", help="Only failures on branches that match.")
@click.option("--step", metavar="GLOB", default="*", help="Only steps that match.")
@click.option(
    "--by",
    type=click.Choice(("day", "week", "month")),
    help="The history of each flaky step, a row for each period.",
)
@click.option("--tests", is_flag=True, help="The flaky tests, where job details have test results.")
@RESULT_OPTIONS
def flaky(**options: Any) -> None:
    """Show flaky steps: those that failed and then passed on the same commit.

    An attempt is flaky if it failed (also softly, but not because its agent was lost) although
    the same job passed later on the same commit, as a retry or in another build of the period.
    For each step: flaky attempts of all that passed or failed, the rate of the last 7 days and
    of the days before, commits with flaky attempts, what these attempts took and cost, the
    median delay until the job passed, and how many attempts came since the last flaky one.
    docs/flaky.md describes the numbers.

    --tests lists the tests that failed in flaky attempts, by class and name: how often and on how
    many commits, and how often they failed in other attempts.

    \b
      bk-pipeline flaky
      bk-pipeline flaky --pipeline web --branch main
      bk-pipeline flaky --step unit --by week
      bk-pipeline flaky --tests
    """
    with NoPandas():
        from bk_pipeline.cli.flaky import flaky

        flaky(**options)


@cli.command()
@click.option("--since", type=DAY, help="First day. Default: 6 days before the last one.")
@UNTIL
@click.option("--pipeline", metavar="GLOB", default="*", help="Only pipelines that match.")
@click.option("--branch", metavar="GLOB", default="*", help="Only failures on branches that match.")
@click.option(
    "--kind",
    type=click.Choice(("test", "build", "infrastructure", "timeout", "unknown")),
    help="Only failures of this kind.",
)
@RESULT_OPTIONS
def failures(**options: Any) -> None:
    """Show what broke, and what of it is new: the reasons of failed jobs, by their logs.

    Failures are the same if their message is, but for numbers, paths, ids, addresses and times.
    For each: whether it is new (not seen in the 30 stored days before), its kind, how often and
    when jobs failed with it, and the last message. --format json has its page, and all pipelines
    and steps.

    Needs job details: BK_PIPELINE_JOB_DETAILS. docs/inside-jobs.md describes them.

    \b
      bk-pipeline failures
      bk-pipeline failures --since 2026-11-01 --branch main
      bk-pipeline failures --kind infrastructure --format json
    """
    with NoPandas():
        from bk_pipeline.cli.failures import failures

        failures(**options)


@cli.command()
@SINCE
@UNTIL
@click.option("--service", metavar="GLOB", default="*", help="Only services that match.")
@click.option("--environment", metavar="GLOB", default="*", help="Only environments that match.")
@click.option(
    "--by", type=click.Choice(("day", "week", "month")), help="A row for each of these periods."
)
@click.option("--list", "each", is_flag=True, help="List the single deployments and rollbacks.")
@RESULT_OPTIONS
def deployments(**options: Any) -> None:
    """Show DORA's four keys: how often and how fast you deploy, what fails, how fast it recovers.

    The rules in the file BK_PIPELINE_DEPLOYMENTS say which builds and jobs are deployments and
    rollbacks, of which service and to which environment. For each of them: successful and all
    deployments, their number per day, the median lead time of changes, the share of changes
    that failed or were rolled back, and the median time until that was restored.
    docs/deployments.md defines the numbers, and has rules to start from.

    \b
      bk-pipeline deployments
      bk-pipeline deployments --environment production --by week
      bk-pipeline deployments --list --since 2026-11-01
    """
    with NoPandas():
        from bk_pipeline.cli.deployments import deployments

        deployments(**options)


@cli.command()
@click.option("--since", type=DAY, help="Only changes that began on this day or later.")
@click.option("--pipeline", metavar="GLOB", help="Only pipelines whose slug matches.")
@RESULT_OPTIONS
def changes(**options: Any) -> None:
    """Show what got slower, waits longer, fails more or costs more, and since which build.

    Looks at the last 30 stored days, or, with --since, from 15 days before that day on if that is
    earlier. Improvements follow. docs/changes.md says how a change is decided.

    \b
      bk-pipeline changes
      bk-pipeline changes --since 2026-11-24 --pipeline 'web*' --format json
    """
    from bk_pipeline.cli.changes import changes

    changes(**options)


@cli.command()
@click.option(
    "--period",
    type=click.Choice(("day", "week", "month")),
    default="week",
    show_default=True,
    help="week: 7 days. month: 30 days.",
)
@UNTIL
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="File to write, atomically.",
)
def report(**options: Any) -> None:
    """Write a report of a day, a week or a month as one HTML file, and print its main numbers.

    The report has the builds over time, durations and their changes, the critical path, waits
    for agents by weekday and hour, costs (if BK_PIPELINE_COSTS is set), and tables of pipelines,
    steps, queues and builds, with links to builds and traces. The file loads nothing from
    elsewhere. Dagster shows the same reports: of a day at build_stats, of a week and a month at
    build_report. docs/report.md describes them.

    \b
      bk-pipeline report
      bk-pipeline report --period month --until 2026-11-30 --output november.html
    """
    from bk_pipeline.cli.report import report

    report(**options)


@cli.command()
def quarantined() -> None:
    """List quarantined builds: those that could not be converted to spans.

    Prints one line per build: day, build UUID and reason, separated by tabs. The payloads stay in
    the raw store: after an upgrade that can read them, materialize the day's spans to make
    them. Prints nothing if there are no quarantined builds.
    """
    from bk_pipeline.cli.spans import quarantined

    quarantined()


@cli.command()
def mcp() -> None:
    """Answer an agent's questions about stored builds, by the Model Context Protocol.

    An editor or an agent starts the command and speaks with it by standard input and output. Its
    tools find builds, show one with its critical path, list slow and flaky steps, changes and
    failures, and run SQL. They read the stored spans only: nothing is written, and nothing is
    requested from Buildkite or a backend. Needs the extra: pip install 'bk_pipeline[mcp]'.
    docs/mcp.md shows how to set it up.
    """
    from bk_pipeline.cli.mcp import serve

    serve()


@cli.command()
def traceparent() -> None:
    """Print the W3C TRACEPARENT of the current Buildkite job.

    Spans that use it as their parent become children of the job's span. It is computed from
    BUILDKITE_BUILD_ID and BUILDKITE_JOB_ID, without network access. You can do the same in the
    shell:

    \b
      job="${BUILDKITE_JOB_ID//-/}"
      export TRACEPARENT="00-${BUILDKITE_BUILD_ID//-/}-${job: -16}-01"
    """
    from bk_pipeline.cli.traceparent import traceparent

    traceparent()
