"""Metrics of builds and jobs, worked out of their spans, by OTLP over HTTP: `POST .../v1/metrics`.

To the loop this is one more destination: its items are the builds and jobs to be counted, its
requests the data points that a batch of them comes to. So the ledger knows of each build and job
whether it has been counted, and all that holds for spans (batches in doubt, throttling, turns,
re-queueing) holds here without a line of its own. `docs/metrics.md` says what a backend sees.
"""

from bk_pipeline.deliver.metrics.destination import OtlpMetrics

__all__ = ["OtlpMetrics"]
