"""A build as a waterfall, without saying on what: lines, names, a scale of time."""
