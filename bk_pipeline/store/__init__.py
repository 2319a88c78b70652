"""What is kept between runs: raw payloads and span tables, as Parquet parts by day."""
