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
    opened: list[Destination] | None = None

    def link(trace_id: str, start_ns: int, end_ns: int) -> str | None:
        nonlocal opened
        if opened is None:
            opened = [one.open(services.clock) for one in services.destinations()]
        for destination in list(opened):
            try:
                found = destination.trace_link(trace_id, start_ns=start_ns, end_ns=end_ns)
            except PipelineError as exc:
                opened.remove(destination)
                on_trouble(f"No links to traces: {exc}")
            else:
                if found is not None:
                    return found
        return None

    return link
