"""`bk-pipeline set-aside`: the builds that could not be made into spans."""

from __future__ import annotations

import click

from bk_pipeline.app import App
from bk_pipeline.cli.output import line_of
from bk_pipeline.pipeline import quarantined_builds
from bk_pipeline.settings import Settings


@click.command("set-aside")
def set_aside() -> None:
    """List the builds that could not be made into spans, with the reasons.

    A line a build, between tabs: day, build UUID, reason. Their payloads are kept in the raw
    store; after an upgrade that understands them, materializing the day's spans makes them
    up. Nothing is printed if there are none.
    """
    app = App(Settings.load())
    for day in app.raw().days():
        for one in quarantined_builds(day, spans=app.spans()):
            line_of((day, one.build_id or "?", one.reason))
