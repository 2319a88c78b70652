"""Refuses what a page of another site lets a browser send here.

The sandbox listens on loopback and asks for no password, and any page that is open in a
browser of this machine can send requests there. A browser tells who asks: `Origin` and
`Sec-Fetch-Site` name the page, and `Host` the name that it knows us by. That name is an
attacker's if he has it resolve to our address (DNS rebinding).

Source: Fetch standard, "Origin header"; W3C Fetch Metadata, "Sec-Fetch-Site".
"""

from __future__ import annotations

from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

# What browsers send for a page of this server, and for an address that a person typed in.
_SAME = frozenset({"same-origin", "none"})
# Names that are nobody's to register on the internet.
_PRIVATE = (".localhost", ".internal")


def own_site(app: ASGIApp, host: str) -> ASGIApp:
    """`app` for requests that no other site has made; all others are answered with a 403.

    Args:
        app: The application.
        host: The name or address that the server listens on.
    """

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        refused = refusal(Headers(scope=scope), host) if scope["type"] == "http" else None
        answer = app if refused is None else JSONResponse({"error": refused}, status_code=403)
        await answer(scope, receive, send)

    return guarded


def refusal(headers: Headers, host: str) -> str | None:
    """Why a request with these headers is refused; None if it is not."""
    named = headers.getlist("host")
    if len(named) != 1 or not _ours(named[0], host):
        return "Host is not a name of this machine: ask by its address, or by localhost"
    origins = headers.getlist("origin")
    if any(origin.lower() != f"http://{named[0].lower()}" for origin in origins):
        return "Origin is another site, and the sandbox takes no requests of other sites"
    if any(site not in _SAME for site in headers.getlist("sec-fetch-site")):
        return "Sec-Fetch-Site is another site, and the sandbox takes no requests of other sites"
    return None


def _ours(named: str, host: str) -> bool:
    """Whether `Host: <named>` cannot be an attacker's domain: an address, or a private name."""
    name = (
        named.rpartition("]")[0].lstrip("[")
        if named.startswith("[")
        else named.split(":", maxsplit=1)[0]
    )
    name = name.lower().removesuffix(".")
    if not name:
        return False
    try:
        ip_address(name)
    except ValueError:
        # A name without a dot is one of this network, like a container's.
        return name == host.lower() or "." not in name or name.endswith(_PRIVATE)
    return True
