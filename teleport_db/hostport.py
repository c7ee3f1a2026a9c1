"""Addresses as people write them."""

from __future__ import annotations


def host_port(host: str, port: int) -> str:
    """``host:port``, brackets around an IPv6 literal."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
