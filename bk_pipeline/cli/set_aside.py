"""`bk-pipeline set-aside`: the builds that could not be made into spans."""

from __future__ import annotations

from bk_pipeline.app import App
from bk_pipeline.cli.output import line_of
from bk_pipeline.pipeline import quarantined_builds
from bk_pipeline.settings import Settings


def set_aside() -> None:
    """List the builds that could not be made into spans, with the reasons."""
    app = App(Settings.load())
    for day in app.raw().days():
        for one in quarantined_builds(day, spans=app.spans()):
            line_of((day, one.build_id or "?", one.reason))
