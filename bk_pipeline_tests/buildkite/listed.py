"""A fake of Buildkite's listings: windows, pages, the Link header and a depth limit."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from bk_pipeline.buildkite.records import Page
from bk_pipeline.window import Window
from bk_pipeline_tests.http.scripted import Answer, Request, as_json

DAY = datetime(2026, 11, 19, tzinfo=UTC)
WHOLE_DAY = Window(DAY, DAY + timedelta(days=1))
TOO_DEEP = (
    "Listing builds this deep is not supported. "
    "Please narrow your query using filters such as branch or created_from."
)


def numbers(pages: Iterable[Page]) -> list[int]:
    return [record.number for page in pages for record in page.builds]


def text_of(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def build(number: int = 1, after_s: float = 0, pipeline: str = "web", **fields: Any) -> dict:
    """A build created `after_s` seconds after the start of `DAY`."""
    created = DAY + timedelta(seconds=after_s)
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{pipeline}/{number}")),
        "url": f"https://api.buildkite.com/v2/organizations/acme/pipelines/{pipeline}/builds/{number}",
        "number": number,
        "state": "passed",
        "blocked": False,
        "created_at": text_of(created),
        "finished_at": text_of(created + timedelta(seconds=60)),
        "jobs": [],
        "pipeline": {"slug": pipeline, "name": pipeline},
        **fields,
    }


@dataclass
class Listed:
    """Serves listings of `builds`; pages after `depth` are refused.

    A page has the requested number of builds, at most `per_page`. Like Buildkite, it sends no
    `Link` header with a listing of one page.
    """

    builds: list[dict]
    per_page: int = 100
    depth: int | None = None
    queries: list[dict[str, str]] = field(default_factory=list)

    def __call__(self, request: Request) -> Answer:
        url = urlsplit(request.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.queries.append({"path": url.path, **query})
        page = int(query.pop("page", 1))
        if self.depth is not None and page > self.depth:
            return as_json({"message": TOO_DEEP}, 400)
        found = self.find(query, url.path)
        size = min(self.per_page, int(query.get("per_page", 30)))
        begin = (page - 1) * size
        links = {"next": page + 1, "last": 99} if len(found) > begin + size else {}
        links |= {"prev": page - 1, "first": 1} if page > 1 else {}
        here = f"http://{request.headers['Host']}{url.path}"
        header = ", ".join(
            f'<{here}?{urlencode({**query, "page": number})}>; rel="{relation}"'
            for relation, number in links.items()
        )
        return as_json(found[begin : begin + size], headers={"Link": header} if header else {})

    def find(self, query: dict[str, str], path: str) -> list[dict]:
        def matches(build: dict) -> bool:
            created = datetime.fromisoformat(build["created_at"])
            return (
                created >= datetime.fromisoformat(query.get("created_from", "1970-01-01T00:00:00Z"))
                and created
                < datetime.fromisoformat(query.get("created_to", "2999-01-01T00:00:00Z"))
                and (build["finished_at"] or "") >= query.get("finished_from", "")
                and ("/pipelines/" not in path or f"/{build['pipeline']['slug']}/" in path)
            )

        return sorted(filter(matches, self.builds), key=lambda b: b["created_at"], reverse=True)
