"""Which builds are wanted, as BK_PIPELINE_PIPELINES and BK_PIPELINE_BRANCHES say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

WILDCARDS = frozenset("*?[")
# So many pipelines are asked for one by one without asking first whether that is cheaper.
MOST_NAMES = 10
# More would make too long a URL.
MOST_BRANCHES = 20


class Globs:
    """Globs over names, matched case-sensitively; `!` in front leaves out, in any order.

    Without a glob that takes in, all are taken that none leaves out. No name is an empty one.
    """

    def __init__(self, globs: tuple[str, ...] = ()) -> None:
        self.globs = globs
        self._taken = tuple(dict.fromkeys(glob for glob in globs if not glob.startswith("!")))
        self._left_out = tuple(glob[1:] for glob in globs if glob.startswith("!"))

    def __contains__(self, name: object) -> bool:
        name = "" if name is None else name
        if not isinstance(name, str):
            return False
        taken = not self._taken or any(fnmatchcase(name, glob) for glob in self._taken)
        return taken and not any(fnmatchcase(name, glob) for glob in self._left_out)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.globs!r})"


class PipelineChoice(Globs):
    """Globs over pipelines' slugs."""

    @property
    def plain(self) -> tuple[str, ...]:
        """The pipelines, if `globs` are plain names; otherwise none."""
        named = not self._left_out and not any(WILDCARDS & set(name) for name in self._taken)
        return self._taken if named else ()

    @property
    def names(self) -> tuple[str, ...]:
        """The same, if they are at most `MOST_NAMES`: few enough to be asked for one by one."""
        return self.plain if len(self.plain) <= MOST_NAMES else ()


class BranchChoice(Globs):
    """Globs over branches."""

    @property
    def params(self) -> Mapping[str, Sequence[str]]:
        """What has Buildkite leave out builds that nobody wants, as far as it can.

        Source: Buildkite REST API, "List all builds": `branch[]`, of which each may hold `*`.
        """
        told = len(self._taken) <= MOST_BRANCHES and all(
            not (WILDCARDS - {"*"}) & set(glob) for glob in self._taken
        )
        return {"branch[]": self._taken} if self._taken and told else {}
