"""What looks like a token or key, so that no message repeats one that was typed in a wrong place."""

from __future__ import annotations

import re

REDACTED = "[redacted]"

# By the prefixes that their makers gave them so that they can be found.
_PREFIXED = re.compile(
    r"(?<![A-Za-z])(?:bk[a-z]{2,4}_[A-Za-z0-9]{16,}"  # Buildkite
    r"|hc[a-z]{3}_[A-Za-z0-9]{16,}"  # Honeycomb
    r"|gh[oprsu]_[A-Za-z0-9]{30,}|github_pat_\w{22,}|glpat-[\w-]{20,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}\b|xox[abceoprs]-[\w-]{10,}|xapp-[\w-]{10,}"
    r"|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{40,}|dt0[a-z]\d\d\.[\w.]{20,}|gl[cs][a-z]?_[\w+/=]{20,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?)",  # a JSON Web Token
    re.ASCII,
)
# Keys without a prefix: Honeycomb's classic ones and those of an environment, Buildkite's old
# ones, New Relic's. Only where such a word is a whole value: an id may look the same.
_BARE = re.compile(
    r"[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f]{36}NRAL"
    r"|(?=.*[0-9])(?=.*[a-z])(?=.*[A-Z])[A-Za-z0-9]{22}"
)


def looks_like_token(value: str) -> bool:
    """Whether `value` is a token or key, or holds one that is known by its prefix."""
    return bool(_PREFIXED.search(value) or _BARE.fullmatch(value))


def without_tokens(text: str) -> str:
    """`text` with `[redacted]` in place of the tokens and keys that are known by their prefix."""
    return _PREFIXED.sub(REDACTED, text)
