"""Statistics of a day: numbers per pipeline, step and agent queue, from the span table."""
