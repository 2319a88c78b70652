"""A page out of a listing: what an estimate is made of."""

from __future__ import annotations

from collections.abc import Callable

from bk_pipeline.buildkite.answers import read_elements
from bk_pipeline.buildkite.paging import Paging, page_count
from bk_pipeline.buildkite.records import Sample, read_build
from bk_pipeline.errors import RecordError
from bk_pipeline.http.session import Response


def sample_in(
    response: Response, *, quote: Callable[[str], str], paging: Paging, asked: int
) -> Sample:
    """The readable builds of a listing's first page, and how many pages there are.

    Raises:
        ServiceUnavailable: The answer was cut on its way.
        UnexpectedAnswer: It is no array.
    """
    builds = []
    elements = read_elements(response, quote).elements
    more = paging.more(response, len(elements), asked, sample=True)
    for element in elements:
        try:
            builds.append(read_build(element))
        except RecordError:
            continue  # one of a hundred changes no estimate
    return Sample(builds, page_count(response) if more else 1, len(elements))
