"""HTTP client for one service: `session.py` sends and redacts; only `retry.py` waits."""
