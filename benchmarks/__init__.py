"""What the parts cost, beside the obvious ways of doing the same; `make bench`.

Never a test: this takes minutes, and its figures are the machine's. Each benchmark is a
module with a `run(scratch)` that gives a `Report`; `__main__.py` lists them.
"""
