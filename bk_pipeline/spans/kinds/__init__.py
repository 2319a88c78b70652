"""One module a span kind: what makes a span of it, when it runs, and how it ended."""
