"""`bk-pipeline quarantined`: list the builds that could not be converted to spans."""

from __future__ import annotations

from bk_pipeline.app import App
from bk_pipeline.cli.output import line_of
from bk_pipeline.pipeline import quarantined_builds
from bk_pipeline.settings import Settings


def quarantined() -> None:
    """List quarantined builds: those that could not be converted to spans."""
    app = App(Settings.load())
    for day in app.raw().days():
        for one in quarantined_builds(day, spans=app.spans()):
            line_of((day, one.build_id or "?", one.reason))
