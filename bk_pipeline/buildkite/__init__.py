"""Read builds from Buildkite's REST API; start with `client.py`.

All knowledge about the API's behaviour is in this package and nowhere else.
"""
