"""The ways from API pages to a whole span table that `benchmarks/transform.py` compares.

A route's module imports no other route's libraries: each runs in a process of its own.
"""
