"""Dagster components: the pipeline as a part of another Dagster project."""

from bk_pipeline.components.buildkite_pipeline import BuildkitePipelineComponent

__all__ = ["BuildkitePipelineComponent"]
