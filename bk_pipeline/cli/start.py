"""Entry point of `bk-pipeline`: installs signal handlers before slow imports."""

from __future__ import annotations

from bk_pipeline.cli.signals import stoppable


def main() -> None:
    """Run the command line; see `main.main`."""
    with stoppable():
        from bk_pipeline.cli.main import main as run  # noqa: PLC0415  # it takes a while

        run()
