"""The SQL of the commands that answer questions: a file per question, for users to read and reuse.

Each queries the views of `bk_pipeline.analysis.views` and names its parameters with a dollar sign.
"""

from __future__ import annotations

from importlib.resources import files


def query_text(name: str) -> str:
    """Return the query in the file `<name>.sql`."""
    return (files(__name__) / f"{name}.sql").read_text(encoding="utf-8")
