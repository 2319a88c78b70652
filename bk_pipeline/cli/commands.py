"""Every command: its name, arguments and help text.

Importing this module imports no command: whoever asks for help does not wait for pyarrow or
Dagster. To add a command, declare it here; its body imports the module that does the work, and
only then.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bk_pipeline import __version__
from bk_pipeline.cli.arguments import DAY, NoPandas, Program, Suggesting

FROM = click.option("--from", "first", type=DAY, help="First day. Default: the first stored.")
TO = click.option("--to", "last", type=DAY, help="Last day, included. Default: the last stored.")
OF_DAY = click.option("--day", type=DAY, help="Only of this day.")
OF_BUILD = click.option("--build", help="Only of this build, by its UUID.")
WITH_REASON = click.option("--reason", help="Only if the reason holds this text.")
RESTORE = click.option(
    "--restore", is_flag=True, help="Place again what somebody deleted in Honeycomb."
)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bk-pipeline")
def cli() -> None:
    """Buildkite builds as traces in Honeycomb: extract, transform, load.

    \b
    Try it first, without any account:    bk-pipeline demo
    Look at the spans of an API answer:   bk-pipeline spans builds.json
    Is everything set up?                 bk-pipeline doctor
    One build, as a waterfall:            bk-pipeline trace web#4182
    Your own builds, day by day:          bk-pipeline backfill --from 2026-11-01 --to 2026-11-07

    Settings come from the environment or from a file .env in the working directory;
    .env.example lists them. In the Dagster UI (make dev) the same days can be
    materialized, backfilled, and kept up to date by a sensor.
    """


@cli.command()
@click.option("--days", default=3, show_default=True, type=click.IntRange(1, 366))
@click.option("--builds-per-day", default=40, show_default=True, type=click.IntRange(1, 50_000))
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of the story.")
def demo(**options: Any) -> None:
    """Try everything on stand-ins: no account, no server, nothing leaves this machine.

    Starts stand-ins for Buildkite and Honeycomb, backfills the last DAYS through Dagster,
    delivers them, and shows what happened and a build as a waterfall.

    --json prints days, builds, jobs, spans, events_accepted, events_rejected, duplicates,
    requests and seconds. Exit status 0 only if all was accepted and nothing doubled.
    """
    from bk_pipeline.cli.demo import demo

    demo(**options)


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8099, show_default=True, help="Port; 0 takes a free one.")
@click.option("--seed", default=1, show_default=True, help="Another seed, another organization.")
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
    help="Last day that has builds (UTC). Default: the present day, with new builds as you watch.",
)
def sandbox(**options: Any) -> None:
    """Serve stand-ins for Buildkite and Honeycomb until interrupted.

    A made-up organization with DAYS of history and builds going on as you watch, and a
    Honeycomb that takes what Honeycomb would take. Prints the `export` lines that point a
    shell at it; with those, make dev and bk-pipeline backfill work against it, on data of
    their own. GET /_sandbox/stored tells what has arrived, POST /_sandbox/builds finishes
    another build.
    """
    from bk_pipeline.cli.sandbox import sandbox

    sandbox(**options)


@cli.command()
@click.option(
    "--days",
    default=30,
    show_default=True,
    type=click.IntRange(1, 366),
    help="Reckon what a backfill of so many days would cost.",
)
def doctor(**options: Any) -> None:
    """Check settings, keys, limits and places, in the order in which a run needs them.

    Each check ends in a tick, or in the one thing to do. Asks Buildkite a handful of small
    questions and each destination one; sends no span, and prints no secret.

    Exit status 0: nothing failed. 2: a setting is missing or malformed. 1: something else
    failed.
    """
    from bk_pipeline.cli.doctor import doctor

    doctor(**options)


@cli.command()
@click.option("--from", "first", type=DAY, required=True, help="First day, like 2026-11-01.")
@click.option("--to", "last", type=DAY, required=True, help="Last day, included.")
@click.option("--full-refresh", is_flag=True, help="Read the days anew even if they are stored.")
@click.option(
    "--resend",
    is_flag=True,
    help="Send again what was delivered with another ledger and this one does not know.",
)
def backfill(**options: Any) -> None:
    """Take days from Buildkite to every destination that is configured.

    Each day is materialized in Dagster, one after the other, in this process; the Dagster
    UI shows them if DAGSTER_HOME is the same. Stop it whenever you like (Ctrl-C): the same
    command goes on where it was. A day that was done costs one request, and nothing is sent
    twice.

    A day that fails does not keep the others from being done. A refused token, a full disk
    and the like end the backfill at once, and so do three failed days in a row.

    Exit status 0: all days are done. 75: some are not, and may be if you try later. 1: some
    failed for a reason that stays. 2: a setting or argument is wrong. 130: interrupted.
    """
    from bk_pipeline.cli.backfill import backfill

    backfill(**options)


@cli.command()
@click.argument("build", metavar="BUILD")
@click.option("--fetch", is_flag=True, help="Ask Buildkite, even if the span table has it.")
@click.option("--all", "every", is_flag=True, help="A line for every job, however many.")
def trace(**options: Any) -> None:
    """Show a build as a waterfall: who waited, who ran, who failed, when.

    BUILD is the URL of a build's page (or of its trace at Honeycomb), pipeline#number, a
    number, or a UUID. It is looked for in the span table, and asked of Buildkite if it is
    not there. Links to its trace follow, one for each destination that has pages.

    \b
      bk-pipeline trace https://buildkite.com/acme/web/builds/4182
      bk-pipeline trace web#4182

    Without a terminal there is no colour; NO_COLOR=1 takes it from a terminal too.
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
    help="ndjson: an object a span. table: for people. parquet: the columns of docs/spans.md.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write here, whole or not at all. Default: standard output.",
)
def spans(**options: Any) -> None:
    """Turn answers of Buildkite's builds API into spans, without any network.

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
    """Show what was delivered where; list and re-queue what was rejected; adopt deliveries.

    Without a command: the destinations, with counts of items (spans, and at Honeycomb
    links too).
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
    """List what DESTINATION rejected: day, trace, span, name, reason, between tabs."""
    from bk_pipeline.cli.ledger import rejected

    rejected(**options)


@ledger.command()
@click.argument("destination")
@OF_DAY
@OF_BUILD
@WITH_REASON
@click.option("--all", "everything", is_flag=True, help="All that was rejected or presumed sent.")
def requeue(**options: Any) -> None:
    """Have DESTINATION's next delivery send again what was rejected or presumed sent.

    What was accepted is never sent again. Materialize the days concerned to send it.
    """
    from bk_pipeline.cli.ledger import requeue

    requeue(**options)


@ledger.command()
@click.argument("destination")
@click.option("--yes", is_flag=True, help="Do not ask.")
def forget(**options: Any) -> None:
    """Forget all that DESTINATION accepted: everything would be sent, and billed, again."""
    from bk_pipeline.cli.ledger import forget

    forget(**options)


@ledger.command()
@click.argument("destinations", nargs=-1)
@FROM
@TO
def adopt(**options: Any) -> None:
    """Take for delivered what was delivered from this data directory with another ledger.

    For a ledger that is new, restored from a backup, or in a new place: what the data directory
    says was delivered is not sent again, and deliveries go on with what is new. Concerns all
    configured destinations, or those named like their assets. Sends nothing. To send everything
    again instead: bk-pipeline backfill --resend.
    """
    from bk_pipeline.cli.ledger import adopt

    adopt(**options)


@cli.group(cls=Suggesting)
def markers() -> None:
    """Mark deploys, failed builds and the like on Honeycomb's graphs.

    Which builds and jobs become markers is said by the file that BK_PIPELINE_MARKERS names;
    docs/markers.md has ready rules. The asset honeycomb_markers places them day by day; these
    commands do so for all days of the span table, and show what would be done.
    """


@markers.command("list")
@click.option("--all", "everyones", is_flag=True, help="Also markers that others made.")
def listed(**options: Any) -> None:
    """List the markers that we made, as Honeycomb has them now.

    A line a marker, between tabs: dataset, rule, id, start, end, type, message, URL. Of one
    that somebody deleted in Honeycomb: dataset, rule, id and "deleted in Honeycomb".
    """
    from bk_pipeline.cli.markers import listed

    listed(**options)


@markers.command()
@FROM
@TO
@RESTORE
def plan(**options: Any) -> None:
    """Show what apply would create and change, and prune delete. Changes nothing.

    A line a marker, between tabs: what would be done, day, dataset, rule, start, message; then
    a line of counts.
    """
    from bk_pipeline.cli.markers import plan

    plan(**options)


@markers.command()
@FROM
@TO
@RESTORE
def apply(**options: Any) -> None:
    """Create and change markers as the rules say, and set the colours of their types."""
    from bk_pipeline.cli.markers import apply

    apply(**options)


@markers.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
def prune(**options: Any) -> None:
    """Delete the markers that we made and that no rule asks for any more.

    Because the rule is gone or another one, or because the build ended differently since. Never
    touches what others made.
    """
    from bk_pipeline.cli.markers import prune

    prune(**options)


@cli.command("set-aside")
def set_aside() -> None:
    """List the builds that could not be made into spans, with the reasons.

    A line a build, between tabs: day, build UUID, reason. Their payloads are kept in the raw
    store; after an upgrade that understands them, materializing the day's spans makes them
    up. Nothing is printed if there are none.
    """
    from bk_pipeline.cli.set_aside import set_aside

    set_aside()


@cli.command()
def traceparent() -> None:
    """Print the W3C TRACEPARENT of the Buildkite job that this runs in.

    Spans made with it as their parent hang under the job's span. It is worked out from
    BUILDKITE_BUILD_ID and BUILDKITE_JOB_ID; nothing is asked of anybody. The shell can do
    the same without this command:

    \b
      job="${BUILDKITE_JOB_ID//-/}"
      export TRACEPARENT="00-${BUILDKITE_BUILD_ID//-/}-${job: -16}-01"
    """
    from bk_pipeline.cli.traceparent import traceparent

    traceparent()
