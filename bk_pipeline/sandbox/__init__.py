"""A loopback stand-in for Buildkite's REST API, Honeycomb's ingest API and an OTLP endpoint.

For the demo, the tests, and for trying the program before handing over a
token. It imports nothing from the rest of the package: a stand-in that
shared the client's code would share its mistakes.

It was built from public documentation and recorded answers. Where neither
says how the real service behaves, a docstring here says that it is a guess.
"""
