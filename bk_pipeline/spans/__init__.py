"""Converts a Buildkite build payload to spans. Pure: no I/O and no clock."""
