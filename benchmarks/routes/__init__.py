"""The routes from API pages to a span table that `benchmarks/transform.py` compares.

A route's module imports no other route's libraries: each runs in a process of its own.
"""
