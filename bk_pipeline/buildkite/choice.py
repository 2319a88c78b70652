"""Which pipelines are wanted, as BK_PIPELINE_PIPELINES says it."""

from __future__ import annotations

from fnmatch import fnmatchcase

WILDCARDS = frozenset("*?[")
# Beyond this many, one listing of the organization costs fewer requests than one for each.
MOST_NAMES = 10


class PipelineChoice:
    """Globs over slugs, matched case-sensitively; `!` in front leaves out, in any order.

    Without a glob that takes in, all are taken that none leaves out.
    """

    def __init__(self, globs: tuple[str, ...] = ()) -> None:
        self.globs = globs
        self._taken = tuple(glob for glob in globs if not glob.startswith("!"))
        self._left_out = tuple(glob[1:] for glob in globs if glob.startswith("!"))

    @property
    def names(self) -> tuple[str, ...]:
        """The pipelines to ask for one by one; empty where the organization is to be asked.

        They are named if `globs` are at most `MOST_NAMES` plain names.
        """
        names = tuple(dict.fromkeys(self._taken))
        plain = not self._left_out and not any(WILDCARDS & set(name) for name in names)
        return names if plain and len(names) <= MOST_NAMES else ()

    def __contains__(self, slug: object) -> bool:
        if not isinstance(slug, str):
            return False
        taken = not self._taken or any(fnmatchcase(slug, glob) for glob in self._taken)
        return taken and not any(fnmatchcase(slug, glob) for glob in self._left_out)

    def __repr__(self) -> str:
        return f"PipelineChoice({self.globs!r})"
