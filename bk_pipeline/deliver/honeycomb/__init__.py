"""Honeycomb, by its Events API: `POST /1/batch/{dataset}`."""
