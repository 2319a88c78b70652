"""Entry point of `bk-pipeline`: dispatch to a command; turn errors into a message and a status.

Signal handlers are installed before anything that is slow to import.
"""

from __future__ import annotations

import io
import sys

from bk_pipeline.cli.signals import stoppable


def main() -> None:
    """Run the command line, and exit.

    Exit status 2: a setting or argument is wrong. 75: try again later. 130 and 143: stopped by
    SIGINT and SIGTERM. 1: any other error.
    """
    with stoppable():
        sys.exit(_run())


def _run() -> int:
    """Run the command line and return the exit status."""
    import click  # noqa: PLC0415

    from bk_pipeline.cli.commands import cli  # noqa: PLC0415
    from bk_pipeline.errors import PipelineError, RetryableError  # noqa: PLC0415

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Characters that the terminal's encoding lacks become question marks.
            stream.reconfigure(errors="replace")
    try:
        # Not in standalone mode, which reports an interruption as "Aborted!".
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
