"""Deliver spans to destinations, each span once as far as HTTP allows."""
