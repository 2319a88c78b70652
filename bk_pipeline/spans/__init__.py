"""The span model: a Buildkite build's payload in, its spans out. Pure: no I/O, no clock."""
