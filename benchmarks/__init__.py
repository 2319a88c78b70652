"""Measures the parts of the pipeline against simpler implementations; run by `make bench`.

Never a test: this takes minutes, and its figures are the machine's. Each benchmark is a
module with a `run(scratch)` that gives a `Report`; `__main__.py` lists them.
"""
