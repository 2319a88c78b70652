"""Honeycomb markers: rules say which builds and jobs stand on every graph as a line or a range."""
