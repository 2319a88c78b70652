"""Reading builds from Buildkite's REST API: start at `client.py`.

The rule of the room: whatever is known about the API's behaviour is here and nowhere else.
"""
