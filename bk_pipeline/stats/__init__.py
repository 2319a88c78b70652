"""What a day's builds come to: a row a pipeline, a step and an agent queue."""
