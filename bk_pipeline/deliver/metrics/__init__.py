"""Metrics of builds and jobs, derived from their spans and sent by OTLP over HTTP (`/v1/metrics`).

To the delivery loop this is one more destination. Its items are the builds and jobs to be counted,
and its requests hold the data points aggregated from a batch of items. So the ledger knows of each
build and job whether it was counted, and everything that works for spans (batches in doubt,
throttling, delivery locks, re-queueing) works here too. `docs/metrics.md` describes what a backend
sees.
"""
