"""Recognizes tokens and keys, so that messages do not repeat one that was entered by mistake."""

from __future__ import annotations

import re

REDACTED = "[redacted]"

# Tokens with a prefix that identifies their issuer.
_PREFIXED = re.compile(
    r"(?<![A-Za-z])(?:bk[a-z]{2,4}_[A-Za-z0-9]{16,}"  # Buildkite
    r"|hc[a-z]{3}_[A-Za-z0-9]{16,}"  # Honeycomb
    r"|gh[oprsu]_[A-Za-z0-9]{30,}|github_pat_\w{22,}|glpat-[\w-]{20,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}\b|xox[abceoprs]-[\w-]{10,}|xapp-[\w-]{10,}"
    r"|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{40,}|dt0[a-z]\d\d\.[\w.]{20,}|gl[cs][a-z]?_[\w+/=]{20,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?)",  # a JSON Web Token
    re.ASCII,
)
# Keys without a prefix: Honeycomb's classic and environment keys, Buildkite's old tokens, New
# Relic's keys. Matched against whole values only, because an id may look the same.
_BARE = re.compile(
    r"[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f]{36}NRAL"
    r"|(?=.*[0-9])(?=.*[a-z])(?=.*[A-Z])[A-Za-z0-9]{22}"
)


def looks_like_token(value: str) -> bool:
    """Return whether `value` is a token or key, or contains one with a known prefix."""
    return bool(_PREFIXED.search(value) or _BARE.fullmatch(value))


def redact_tokens(text: str) -> str:
    """Return `text` with tokens and keys that have a known prefix replaced by `[redacted]`."""
    return _PREFIXED.sub(REDACTED, text)
