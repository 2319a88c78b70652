"""Links to where people look at traces."""

from collections.abc import Callable

from bk_pipeline.defs.resources import Services
from bk_pipeline.deliver.destination import Destination
from bk_pipeline.errors import PipelineError


def trace_links(
    services: Services, *, on_trouble: Callable[[str], None]
) -> Callable[[str, int, int], str | None]:
    """What makes of a trace id, and its start and end in nanoseconds, the page of the trace.

    At the first destination that has such pages; None if none has. A destination that
    cannot say is told of once: links are a convenience that nothing fails for.
    """
    waiting = services.destinations()
    opened: list[Destination] = []

    def link(trace_id: str, start_ns: int, end_ns: int) -> str | None:
        while waiting or opened:
            try:
                if not opened:
                    opened.append(waiting[0].open(services.clock))
                found = opened[0].trace_link(trace_id, start_ns=start_ns, end_ns=end_ns)
            except PipelineError as exc:
                on_trouble(f"No links to traces: {exc}")
                found = None
            if found is not None:
                return found
            # It has none of any trace; so the next one is asked, if there is one.
            waiting.pop(0)
            opened.clear()
        return None

    return link
