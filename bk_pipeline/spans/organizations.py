"""Names of organizations and clusters. Builds have only the slug and the UUID."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from bk_pipeline.spans.derived import cluster_id, organization_slug
from bk_pipeline.spans.records import Build


class Organization(msgspec.Struct, frozen=True):
    """An organization."""

    slug: str
    id: str | None = None
    name: str | None = None


class Cluster(msgspec.Struct, frozen=True):
    """A cluster of an organization."""

    id: str
    graphql_id: str | None = None
    name: str | None = None


class Origin(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What is known of a build's organization and cluster."""

    organization_id: str | None
    organization_name: str | None
    cluster_name: str | None
    cluster_graphql_id: str | None


class Names:
    """Finds a build's organization by its slug and its cluster by its UUID.

    Args:
        organizations: The known organizations.
        clusters: The known clusters of all organizations.

    Attributes:
        kinds: What is known: `organizations`, `clusters`, both, or nothing.
    """

    def __init__(
        self, organizations: Iterable[Organization] = (), clusters: Iterable[Cluster] | None = None
    ) -> None:
        self._organizations = {one.slug: one for one in organizations}
        self._clusters = {one.id: one for one in clusters or ()}
        self._origins: dict[tuple[str | None, str | None], Origin] = {}
        known = {"organizations": self._organizations, "clusters": clusters is not None}
        self.kinds = tuple(kind for kind, any_known in known.items() if any_known)

    def origin(self, build: Build) -> Origin | None:
        """Return the same object for all builds of a cluster; None if nothing is known at all."""
        if not self.kinds:
            return None
        key = organization_slug(build), cluster_id(build)
        if key not in self._origins:
            organization = self._organizations.get(key[0] or "")
            cluster = self._clusters.get(key[1] or "")
            self._origins[key] = Origin(
                organization_id=organization.id if organization else None,
                organization_name=organization.name if organization else None,
                cluster_name=cluster.name if cluster else None,
                cluster_graphql_id=cluster.graphql_id if cluster else None,
            )
        return self._origins[key]
