"""Honeycomb, by its Events API: `POST /1/batch/{dataset}`."""

from bk_pipeline.deliver.honeycomb.destination import Honeycomb

__all__ = ["Honeycomb"]
