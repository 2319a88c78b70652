"""Buildkite builds as traces: extract, transform, load, as a Dagster pipeline."""

__version__ = "0.1.0"
