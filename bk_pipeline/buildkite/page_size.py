"""How many builds to ask for at once, so that an answer's size stays bounded.

A build may have 4,000 jobs of some kilobytes each; a hundred of those fill a gigabyte. The
next page is sized by what the builds of the last one took. An answer that grows too large
all the same is broken off, and asked for again in smaller pages.
"""

from __future__ import annotations

MIB = 1024 * 1024
MOST_BUILDS = 100
# What a page should come to, and where it is broken off, decompressed.
WANTED_BYTES = 12 * MIB
MOST_BYTES = 48 * MIB
GROWTH = 2
SHRINKAGE = 4


class PageSize:
    """The size of one listing's pages; each question asks for `builds` of them."""

    def __init__(self) -> None:
        self.builds = MOST_BUILDS

    @property
    def most_bytes(self) -> int | None:
        """Where to break off an answer to the next question.

        None: only where every answer is. A single build cannot be asked for in smaller pages.
        """
        return MOST_BYTES if self.builds > 1 else None

    def learn(self, elements: list[bytes]) -> None:
        """Take in a page that came."""
        if elements:
            mean = sum(map(len, elements)) / len(elements)
            fitting = int(WANTED_BYTES / max(mean, 1))
            self.builds = max(1, min(fitting, self.builds * GROWTH, MOST_BUILDS))

    def shrink(self) -> None:
        """An answer was broken off: ask for fewer from now on."""
        self.builds = max(1, self.builds // SHRINKAGE)
