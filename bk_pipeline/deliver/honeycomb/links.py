"""Links into Honeycomb's pages.

Source: buildevents, for their form.
"""

from __future__ import annotations

from urllib.parse import quote as percent_encoded
from urllib.parse import urlencode, urlsplit

from bk_pipeline.http.honeycomb import Account, dataset_slug
from bk_pipeline.units import NS_PER_S

# Around a trace in its link; without times a trace must be of the last two hours.
LINK_MARGIN_S = 60


def trace_link(
    account: Account, *, endpoint: str, dataset: str, trace_text: str, start_ns: int, end_ns: int
) -> str:
    """The page that shows a trace.

    Args:
        account: Whose it is.
        endpoint: The API's URL, US or EU.
        dataset: Its name.
        trace_text: The trace's id as the events have it.
        start_ns: The root's start.
        end_ns: The root's end.
    """
    parts = urlsplit(endpoint)
    host = parts.netloc.replace("api", "ui", 1)
    environment = (
        f"/environments/{percent_encoded(account.environment)}" if account.environment else ""
    )
    query = urlencode(
        {
            "trace_id": trace_text,
            "trace_start_ts": start_ns // NS_PER_S - LINK_MARGIN_S,
            "trace_end_ts": -(-end_ns // NS_PER_S) + LINK_MARGIN_S,
        }
    )
    page = f"{percent_encoded(account.team)}{environment}/datasets/{percent_encoded(dataset_slug(dataset))}/trace"
    return f"{parts.scheme}://{host}/{page}?{query}"
