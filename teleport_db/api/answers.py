"""What both clients of the API do alike: the address of a call, and what its answer says.

::

    200   the object
    else  {"error": {"code", "message"}}   the class of errors that the code names, else the status
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from teleport_db.errors import (
    BY_CODE,
    AccessDenied,
    AuthenticationFailed,
    NotFound,
    RemoteProtocolError,
    TeleportDBError,
)

#: No answer of the API is larger (bytes); a listing of 100,000 audit events stays below it.
MAX_ANSWER = 64 * 1024 * 1024

_BY_STATUS: dict[int, type[TeleportDBError]] = {401: AuthenticationFailed, 403: AccessDenied, 404: NotFound}


def target(path: str, query: Mapping[str, Any] | None) -> str:
    """The path with its query; parameters that are None are left out."""
    given = {name: value for name, value in (query or {}).items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def content(status: int, data: bytes, where: str) -> dict[str, Any]:
    """The object of an answer, ``{}`` for an empty one.

    :param where: who answered, for the words of an error.
    :raises RemoteProtocolError: it is no answer of the API.
    :raises TeleportDBError: of the class that the answer's code names.
    """
    try:
        found = json.loads(data) if data.strip() else {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise RemoteProtocolError(f"{where} does not answer as the API of a cluster (HTTP {status})")
    if 200 <= status < 300:
        return found
    error = found.get("error")
    told = error if isinstance(error, dict) else {}
    message = str(told.get("message") or f"{where} refused the call (HTTP {status})")
    raise BY_CODE.get(str(told.get("code")), _BY_STATUS.get(status, TeleportDBError))(message)
