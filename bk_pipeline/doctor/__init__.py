"""Is everything there that a run needs? Questions in an order, each answered in a sentence.

No check changes anything that stays, and none knows of the terminal.
"""
