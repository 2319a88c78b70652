"""Quoting what a service said without repeating a secret that it echoed."""

from __future__ import annotations

from collections.abc import Mapping

# Headers that a session may fix and that everybody may know.
PUBLIC = {"accept", "accept-encoding", "content-encoding", "content-type", "user-agent"}
# Shorter words ("Bearer", "1") would blot out ordinary text.
SHORTEST_SECRET = 8


class Redactor:
    """Knows the secrets in `headers`: each value, and each long word of it."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        values = [value for name, value in headers.items() if name.lower() not in PUBLIC]
        words = [word for value in values for word in value.split()]
        secrets = {secret for secret in (*values, *words) if len(secret) >= SHORTEST_SECRET}
        self._secrets = sorted(secrets, key=len, reverse=True)

    def quote(self, text: str, *, limit: int) -> str:
        """`text` on one line, its secrets blotted out first, then cut after `limit` letters."""
        for secret in self._secrets:
            text = text.replace(secret, "[redacted]")
        line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return line if len(line) <= limit else line[:limit].rstrip() + "…"

    def __repr__(self) -> str:
        return f"Redactor({len(self._secrets)} secrets)"
