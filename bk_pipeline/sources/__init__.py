"""Spans inside of jobs, from job logs, test results and profiles. Bytes in, spans out; no I/O."""
