"""What roles limit: the strictest of each, and which role that is.

::

    role "dev"    max_db_connections: 5    client_idle_timeout: 1h
    role "ops"    max_db_connections: 2                               ->  2 of role "ops", 1h of role "dev"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

import attrs

from teleport_db.access.roles import DURATIONS, Options, Role
from teleport_db.config.durations import format_duration
from teleport_db.config.model import frozen_mapping

#: Of each option the value that is the strictest of several; what a role does not say is not among them.
_STRICTEST: dict[str, Callable[[Sequence[Any]], Any]] = {
    "max_session_ttl": min,
    "client_idle_timeout": min,
    "disconnect_expired_cert": any,
    "require_session_mfa": any,
    "max_db_connections": min,
    "record_session": max,  # best_effort < strict
    "record_parameters": all,
}


@attrs.frozen
class Limits(Options):
    """The options of several roles together.

    ``source_addresses`` is empty: every role's own list has to have a client's address in it.

    :param set_by: which role each comes from, by the option's name; "" for the cluster itself.
    """

    set_by: Mapping[str, str] = attrs.field(factory=dict, converter=frozen_mapping)

    def whose(self, option: str) -> str:
        """Who limits it, for a text: ``role "dev"``, or ``this cluster``."""
        name = self.set_by.get(option, "")
        return f'role "{name}"' if name else "this cluster"


def combined_options(roles: Sequence[Role]) -> Limits:
    """The options of all roles together: of each, the strictest; of several as strict, the first role's."""
    unsaid, found, set_by = Options(), {}, {}
    for option, strictest in _STRICTEST.items():
        default = getattr(unsaid, option)
        said = [(role.name, value) for role in roles if (value := getattr(role.options, option)) != default]
        if said:
            found[option] = strictest([value for _, value in said])
            set_by[option] = next(name for name, value in said if value == found[option])
    return Limits(**found, set_by=set_by)


def limits_of(roles: Sequence[Role]) -> list[dict[str, Any]]:
    """The limits of all roles together, for people and programs to read: option, value, and whose it is."""
    limits = combined_options(roles)
    found = []
    for option in limits.set_by:
        value = getattr(limits, option)
        shown = format_duration(value) if option in DURATIONS else value
        found.append({"option": option, "value": shown, "set_by": limits.whose(option)})
    for role in roles:
        if addresses := role.options.source_addresses:
            found.append({"option": "source_addresses", "value": list(addresses), "set_by": f'role "{role.name}"'})
    return found


def outside(networks: Sequence[str], address: str) -> bool:
    """Whether an address is in none of ``networks``; without any networks it is outside of nothing.

    An IPv4 address in IPv6's clothes is the IPv4 address.  What is no address is outside.
    """
    if not networks:
        return False
    try:
        parsed = ip_address(address)
    except ValueError:
        return True
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return not any(parsed in network for network in map(_network, networks))


@lru_cache(maxsize=4096)
def _network(text: str) -> IPv4Network | IPv6Network:
    return ip_network(text)
