"""The use cases: extract a day, transform it, deliver it, summarize it, place its markers.

They are plain functions, called by Dagster (`defs/`), the command line (`cli/`) and tests. Each can
be run again at any time: it costs only what is new since, and repeats nothing.

Each is imported when it is first used, so that loading the Dagster definitions does not import
pyarrow, SQLAlchemy, and requests.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bk_pipeline.honeycomb.placing import Placement
    from bk_pipeline.pipeline.changes import StoredChanges, changes_are_stale, find_changes
    from bk_pipeline.pipeline.days import OVERLAP, Day, Progress, Results
    from bk_pipeline.pipeline.deliver import adopt_day, deliver_day
    from bk_pipeline.pipeline.deployment_metrics import (
        adopt_deployments,
        deliver_deployments,
        uncounted_days,
    )
    from bk_pipeline.pipeline.deployments import (
        FoundDeployments,
        days_with_stale_deployments,
        find_deployments,
        record_deployments,
    )
    from bk_pipeline.pipeline.details import read_job_details
    from bk_pipeline.pipeline.extract import Extraction, extract_day, restore_day
    from bk_pipeline.pipeline.job_sources import JobDetails
    from bk_pipeline.pipeline.mark import (
        MarkerContext,
        place_markers,
        place_regression_markers,
        plan_markers,
        prune_markers,
    )
    from bk_pipeline.pipeline.organization import ask_again, refresh_names
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
    "FoundDeployments",
    "JobDetails",
    "MarkerContext",
    "Placement",
    "Progress",
    "Results",
    "StoredChanges",
    "Transformation",
    "adopt_day",
    "adopt_deployments",
    "ask_again",
    "changes_are_stale",
    "days_with_stale_deployments",
    "deliver_day",
    "deliver_deployments",
    "extract_day",
    "find_changes",
    "find_deployments",
    "holds_back_builds",
    "place_markers",
    "place_regression_markers",
    "plan_markers",
    "prune_markers",
    "quarantined_builds",
    "read_job_details",
    "record_deployments",
    "refresh_names",
    "restore_day",
    "stats_are_stale",
    "stored_summary",
    "summarize_day",
    "transform_day",
    "transform_fingerprint",
    "uncounted_days",
]

_MODULES = {
    "Day": "bk_pipeline.pipeline.days",
    "Extraction": "bk_pipeline.pipeline.extract",
    "FoundDeployments": "bk_pipeline.pipeline.deployments",
    "JobDetails": "bk_pipeline.pipeline.job_sources",
    "MarkerContext": "bk_pipeline.pipeline.mark",
    "OVERLAP": "bk_pipeline.pipeline.days",
    "Placement": "bk_pipeline.honeycomb.placing",
    "Progress": "bk_pipeline.pipeline.days",
    "Results": "bk_pipeline.pipeline.days",
    "StoredChanges": "bk_pipeline.pipeline.changes",
    "Transformation": "bk_pipeline.pipeline.transform",
    "adopt_day": "bk_pipeline.pipeline.deliver",
    "adopt_deployments": "bk_pipeline.pipeline.deployment_metrics",
    "ask_again": "bk_pipeline.pipeline.organization",
    "changes_are_stale": "bk_pipeline.pipeline.changes",
    "days_with_stale_deployments": "bk_pipeline.pipeline.deployments",
    "deliver_day": "bk_pipeline.pipeline.deliver",
    "deliver_deployments": "bk_pipeline.pipeline.deployment_metrics",
    "extract_day": "bk_pipeline.pipeline.extract",
    "find_changes": "bk_pipeline.pipeline.changes",
    "find_deployments": "bk_pipeline.pipeline.deployments",
    "holds_back_builds": "bk_pipeline.pipeline.transform",
    "place_markers": "bk_pipeline.pipeline.mark",
    "place_regression_markers": "bk_pipeline.pipeline.mark",
    "plan_markers": "bk_pipeline.pipeline.mark",
    "prune_markers": "bk_pipeline.pipeline.mark",
    "quarantined_builds": "bk_pipeline.pipeline.transform",
    "read_job_details": "bk_pipeline.pipeline.details",
    "record_deployments": "bk_pipeline.pipeline.deployments",
    "refresh_names": "bk_pipeline.pipeline.organization",
    "restore_day": "bk_pipeline.pipeline.extract",
    "stats_are_stale": "bk_pipeline.pipeline.summarize",
    "stored_summary": "bk_pipeline.pipeline.transform",
    "summarize_day": "bk_pipeline.pipeline.summarize",
    "transform_day": "bk_pipeline.pipeline.transform",
    "transform_fingerprint": "bk_pipeline.pipeline.transform",
    "uncounted_days": "bk_pipeline.pipeline.deployment_metrics",
}


def __getattr__(name: str) -> Any:
    """Import `name` from its module (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
