"""Who may reach which database service, as which database user, in which database: roles and decisions.

Everything here is a function of its arguments: the roles, the user's traits, the service's labels and
the names PostgreSQL will really use.  No store, no clock.
"""

from teleport_db.access.checker import (
    LOGICAL,
    PHYSICAL,
    Decision,
    Say,
    allowed_names,
    allows,
    check_session,
    visible,
)
from teleport_db.access.limits import Limits, combined_options, limits_of
from teleport_db.access.roles import (
    Conditions,
    Options,
    Role,
    Rule,
    builtin_roles,
    parse_role,
    role_resource,
)
from teleport_db.access.traits import ExpandedRole, Selectors, expand

__all__ = [
    "LOGICAL",
    "PHYSICAL",
    "Conditions",
    "Decision",
    "ExpandedRole",
    "Limits",
    "Options",
    "Role",
    "Rule",
    "Say",
    "Selectors",
    "allowed_names",
    "allows",
    "builtin_roles",
    "check_session",
    "combined_options",
    "expand",
    "limits_of",
    "parse_role",
    "role_resource",
    "visible",
]
