"""`bk-pipeline`: finds the command, and turns our errors into one line and an exit status."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

from bk_pipeline import __version__
from bk_pipeline.cli.output import Suggesting
from bk_pipeline.cli.signals import stoppable
from bk_pipeline.errors import PipelineError, RetryableError
from bk_pipeline.tokens import redact_tokens

# Command: its line in `--help`, the module that has it, and the name there. A module is
# imported when its command is called, so that `--help` waits for nothing.
COMMANDS = {
    "demo": (
        "Try everything on stand-ins: no account, no server, nothing leaves this machine.",
        "bk_pipeline.cli.demo:demo",
    ),
    "sandbox": (
        "Serve stand-ins for Buildkite and Honeycomb until interrupted.",
        "bk_pipeline.cli.sandbox:sandbox",
    ),
    "doctor": (
        "Check settings, keys, limits and places, in the order in which a run needs them.",
        "bk_pipeline.cli.doctor:doctor",
    ),
    "backfill": (
        "Take days from Buildkite to every destination that is configured.",
        "bk_pipeline.cli.backfill:backfill",
    ),
    "trace": (
        "Show a build as a waterfall: who waited, who ran, who failed, when.",
        "bk_pipeline.cli.trace:trace",
    ),
    "spans": (
        "Turn answers of Buildkite's builds API into spans, without any network.",
        "bk_pipeline.cli.spans:spans",
    ),
    "ledger": (
        "Show what was delivered where; list and re-queue what was rejected; adopt deliveries.",
        "bk_pipeline.cli.ledger:ledger",
    ),
    "markers": (
        "Mark deploys, failed builds and the like on Honeycomb's graphs.",
        "bk_pipeline.cli.markers:markers",
    ),
    "set-aside": (
        "List the builds that could not be made into spans, with the reasons.",
        "bk_pipeline.cli.set_aside:set_aside",
    ),
    "traceparent": (
        "Print the W3C TRACEPARENT of the Buildkite job that this runs in.",
        "bk_pipeline.cli.trace:traceparent",
    ),
}


class _Commands(Suggesting):
    """A group whose commands are imported one at a time."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002  # click's signature
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name][1].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # click's signature
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (line, _) in COMMANDS.items()])

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _tokens_redacted():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with _tokens_redacted():
            return super().invoke(ctx)


@contextmanager
def _tokens_redacted() -> Iterator[None]:
    """A block whose usage errors repeat no token that was typed in as an argument."""
    try:
        yield
    except click.ClickException as exc:
        exc.message = redact_tokens(exc.message)  # type: ignore[misc]  # its one text
        raise


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
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


def main() -> None:
    """Run the command line, and exit.

    Exit status 2: a setting or argument; 75: try later; 130 and 143: stopped by SIGINT and
    SIGTERM; 1: other errors.
    """
    with stoppable():
        sys.exit(_run())


def _run() -> int:
    """The exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that knows no ticks or bars shows question marks in their places.
            stream.reconfigure(errors="replace")
    try:
        # Not in click's standalone mode: that calls an interruption an abortion.
        result = cli(standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Abort as exc:
        if exc.__cause__ is not None:
            raise KeyboardInterrupt from exc
        sys.stderr.write("Aborted!\n")
        return 1
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except PipelineError as exc:
        seconds = exc.retry_in_s if isinstance(exc, RetryableError) else None
        when = f" Try again in {seconds:.0f} s." if seconds else ""
        # It loads Rich, which --help does without.
        from bk_pipeline.cli.output import echo  # noqa: PLC0415

        echo(f"bk-pipeline: {exc}{when}", err=True)
        return exc.exit_status
