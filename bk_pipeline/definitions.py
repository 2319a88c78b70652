"""What Dagster loads: one pipeline, configured by the environment and `.env`."""

import dagster as dg

from bk_pipeline.components import BuildkitePipelineComponent

# A process for each step costs 11 s where a run takes 5.6: the steps share one.
EXECUTOR = dg.in_process_executor


@dg.definitions
def defs() -> dg.Definitions:
    """Return the definitions of this code location."""
    pipeline = dg.build_defs_for_component(BuildkitePipelineComponent())
    return dg.Definitions.merge(pipeline, dg.Definitions(executor=EXECUTOR))
