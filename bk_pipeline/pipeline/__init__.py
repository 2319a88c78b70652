"""The use cases: extract a day, transform it, deliver it, summarize it, place its markers.

They are plain functions, called by Dagster (`defs/`), the command line (`cli/`) and tests. Each can
be run again at any time: it costs only what is new since, and repeats nothing.
"""

from bk_pipeline.pipeline.days import Day, Progress
from bk_pipeline.pipeline.deliver import adopt_day, deliver_day
from bk_pipeline.pipeline.extract import OVERLAP, Extraction, extract_day, restore_day
from bk_pipeline.pipeline.mark import MarkerContext, place_markers, plan_markers, prune_markers
from bk_pipeline.pipeline.results import Results
from bk_pipeline.pipeline.summarize import stats_are_stale, summarize_day
from bk_pipeline.pipeline.transform import (
    Transformation,
    holds_back_builds,
    quarantined_builds,
    stored_summary,
    transform_day,
    transform_fingerprint,
)

__all__ = [
    "OVERLAP",
    "Day",
    "Extraction",
    "MarkerContext",
    "Progress",
    "Results",
    "Transformation",
    "adopt_day",
    "deliver_day",
    "extract_day",
    "holds_back_builds",
    "place_markers",
    "plan_markers",
    "prune_markers",
    "quarantined_builds",
    "restore_day",
    "stats_are_stale",
    "stored_summary",
    "summarize_day",
    "transform_day",
    "transform_fingerprint",
]
