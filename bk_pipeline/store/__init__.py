"""The data directory: raw builds, spans and statistics, as Parquet parts by day."""
