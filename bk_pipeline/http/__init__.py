"""Talking HTTP to one service: `session.py` sends and redacts, `retry.py` alone waits."""
