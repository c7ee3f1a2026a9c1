"""JSON over HTTP, for whoever serves it.

::

    body  ─▶ json_object ─▶ the object, or BadRequest
    value ─▶ write       ─▶ headers and bytes
    error ─▶ write_error ─▶ {"error": {"code", "message"}} with the status of its class

The unexpected is an internal error with an id; the rest of it stays in the log.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure
from werkzeug.exceptions import HTTPException

from teleport_db.errors import BadRequest, TeleportDBError

log = Logger()


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number in JSON")


def json_object(data: bytes) -> dict[str, Any]:
    """The JSON object in ``data``; an empty body is an empty object.  BadRequest for anything else."""
    if not data:
        return {}
    try:
        value = json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise BadRequest("the body is no JSON") from error
    if not isinstance(value, dict):
        raise BadRequest("the body must be an object")
    return value


def write(request: Any, status: int, value: Any) -> bytes:
    """Set the headers of a JSON answer; the bytes of its body."""
    body = json.dumps(value, separators=(",", ":")).encode()
    request.setResponseCode(status)
    request.setHeader(b"content-type", b"application/json")
    request.setHeader(b"content-length", b"%d" % len(body))
    request.setHeader(b"cache-control", b"no-store")
    return body


def write_error(request: Any, failure: Failure) -> bytes:
    """The answer that tells of an error, be it ours, the router's or a fault; nothing when nobody waits."""
    error = failure.value
    if isinstance(error, CancelledError):
        return b""
    if isinstance(error, HTTPException):
        status = routing_status(request, error)
        return _told(request, status, "not_found" if status == 404 else "bad_request", "there is no such call")
    if isinstance(error, TeleportDBError):
        if error.status >= 500:
            log.error("a call failed: {why} {detail}", why=error.public, detail=error.detail)
        return _told(request, error.status, error.code, error.public)
    return _told(request, 500, "internal", f"internal error, id {log_fault(failure)}")


def routing_status(request: Any, error: HTTPException) -> int:
    """404, or 405 with the methods that there are (RFC 9110, 15.5.6); sets the header of the latter.

    A redirection to a tidier path is a 404 too: nobody is sent anywhere by what a request says.
    """
    if error.code != 405:
        return 404
    request.setHeader(b"allow", ", ".join(sorted(getattr(error, "valid_methods", None) or ())).encode())
    return 405


def log_fault(failure: Failure) -> str:
    """Log a fault of ours; the id by which it is found."""
    error_id = uuid.uuid4().hex[:12]
    log.failure("a call failed, id {id}", failure, id=error_id)
    return error_id


def _told(request: Any, status: int, code: str, message: str) -> bytes:
    return write(request, status, {"error": {"code": code, "message": message}})
