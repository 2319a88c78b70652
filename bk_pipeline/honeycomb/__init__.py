"""Honeycomb's API apart from sending events: the account of a key, and markers from rules."""
