"""A loopback stand-in for Buildkite's REST API, Honeycomb's ingest API and an OTLP endpoint.

Used by the demo, by the tests, and to try the program without an account. It
imports nothing from the rest of the package, so it cannot share the clients'
mistakes.

It is built from public documentation and recorded responses. Where neither
says how the real service behaves, a docstring marks the behavior as a guess.
"""
