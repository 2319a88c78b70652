"""Proxies and CA bundles, from the standard environment variables.

The variables may be exported or set in `.env`, so they are read from the settings instead of
the process's environment: `requests` reads only exported ones and ignores SSL_CERT_FILE. A
lower-case variable takes precedence over the same one in upper case.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Self
from urllib.request import getproxies

from bk_pipeline.environment import CA_BUNDLES, NETWORK, validated
from bk_pipeline.errors import ConfigError

DEFAULT_PORTS = {"https": 443, "http": 80}
LOOPBACK = ("localhost", "::1")


@dataclass(frozen=True, slots=True)
class Network:
    """Proxies and the CA bundle for all services. The `repr` shows no password.

    Attributes:
        proxies: Proxy URL by scheme: `https`, `http`, `all`.
        no_proxy: Hosts that are reached directly, in the syntax of NO_PROXY.
        ca_bundle: Path of a file or folder of CA certificates; None: those of `certifi`.
        ca_variable: The variable to name in messages about the CA bundle.
    """

    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    no_proxy: str = field(default="", repr=False)
    ca_bundle: str | None = None
    ca_variable: str = CA_BUNDLES[0]

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """The network configuration in these variables.

        Raises:
            ConfigError: A value is malformed, or the CA bundle does not exist.
        """
        given = validated({name: environment[name] for name in NETWORK if name in environment})

        def proxy(name: str) -> str:
            return given.get(f"{name}_proxy") or given.get(f"{name.upper()}_PROXY", "")

        named = {name: url for name in ("https", "http", "all") if (url := proxy(name))}
        if not named and sys.platform in {"darwin", "win32"}:
            named = getproxies()  # the operating system's settings
        ca_variable = next((name for name in CA_BUNDLES if name in given), CA_BUNDLES[0])
        ca_bundle = given.get(ca_variable)
        if ca_bundle is not None and not Path(ca_bundle).exists():
            raise ConfigError(
                f"{ca_variable} is not the path of a file or folder that exists here. Set it to "
                "the path of a CA bundle, or unset it."
            )
        return cls(named, proxy("no"), ca_bundle, ca_variable)

    def proxy_for(self, scheme: str, host: str, port: int) -> str | None:
        """The URL of the proxy for a service; None if it is reached directly.

        Loopback addresses never use a proxy, even if NO_PROXY does not list them.
        """
        if host in LOOPBACK or host.startswith("127.") or self._direct(host, port):
            return None
        return self.proxies.get(scheme) or self.proxies.get("all")

    def _direct(self, host: str, port: int) -> bool:
        return any(
            _covers(entry.lower(), host.lower(), port)
            for entry in self.no_proxy.replace(",", " ").split()
        )


def _covers(entry: str, host: str, port: int) -> bool:
    """Whether a NO_PROXY entry matches `host`: the host, a parent domain, or a network."""
    try:
        address = ip_address(host)
    except ValueError:
        name, _, its_port = entry.partition(":")
        domain = name.removeprefix("*").strip(".")
        if its_port and its_port != str(port):
            return False
        return entry == "*" or (bool(domain) and (host == domain or host.endswith(f".{domain}")))
    try:
        return entry == "*" or address in ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return entry in {f"{host}:{port}", f"[{host}]:{port}"}


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Timeouts of a request, in seconds.

    Attributes:
        connect_s: For making the connection.
        read_s: Between two received bytes.
        total_s: From the DNS lookup to the last byte of the response.
    """

    connect_s: float = 10.0
    read_s: float = 60.0
    total_s: float = 300.0

    def within(self, timeout_s: float | None) -> Timeouts:
        """These timeouts, each capped at `timeout_s`."""
        if timeout_s is None:
            return self
        return Timeouts(
            min(self.connect_s, timeout_s),
            min(self.read_s, timeout_s),
            min(self.total_s, timeout_s),
        )

    @classmethod
    def for_deadline(cls, deadline_s: float) -> Timeouts:
        """Timeouts for requests that are retried until a deadline, so that none exceeds it by much."""
        return cls().within(max(deadline_s, cls().read_s))
