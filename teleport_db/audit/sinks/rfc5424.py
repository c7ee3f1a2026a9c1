"""Messages of syslog: RFC 5424, framed by counting as RFC 5425, 4.3, and RFC 6587, 3.4.1.

::

    LENGTH SP <PRI>1 TIME HOST APP - MSGID [meta sequenceId="7"][origin software="teleport_db" swVersion="1.0"] JSON

TIME and MSGID are the event's time and code; JSON is ASCII on one line, so it needs no byte order mark.  sequenceId
numbers the messages of a sink from 1 on and is the same when one is sent again: who sees a number twice has a message
twice, and who misses one has lost it.
"""

from __future__ import annotations

import re

import attrs

from teleport_db.audit.sinks.cutting import shortened

#: RFC 5424, 7.3.1: sequenceId goes up to here, and from here to 1.
LAST_NUMBER = (1 << 31) - 1

#: RFC 5424, 6.2.1, by the last letter of a code: what went well is informational, what was refused a warning.
_SEVERITY = {b"I": 6, b"W": 4, b"E": 3}
_NOTICE = 5

_HEAD = re.compile(
    rb'(?:\{"source":"(?:[^"\\]|\\.)*","seq":\d+,"event":)?'
    rb'\{"ei":\d+,"event":"[^"\\]*","uid":"[^"\\]*","code":"([A-Za-z0-9]{1,32})","time":"([^"\\]*)"'
)
_CHECKPOINT = re.compile(rb'\{"checkpoint":\{[^{}]*?"time":"([^"\\]*)"')
#: RFC 5424, 6.2.3, as far as events have it.
_TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z")
_HOST = re.compile(r"[!-~]{1,255}")


@attrs.frozen
class Format:
    """What the messages of one sink have in common.

    :param facility: 0 to 23.
    :param limit: bytes of a message; texts of the JSON are cut until it fits.
    """

    facility: int
    hostname: str
    app_name: str
    version: str
    limit: int

    def message(self, record: bytes, number: int) -> bytes:
        """One message without its frame.

        :param number: of the record, from 1 on, among all that the sink was sent.
        """
        head = _HEAD.match(record)
        code, time = (head[1], head[2]) if head is not None else (b"-", b"-")
        severity = _SEVERITY.get(code[-1:], _NOTICE)
        checkpoint = _CHECKPOINT.match(record) if head is None else None
        if checkpoint is not None:
            code, time = b"checkpoint", checkpoint[1]
        if not _TIME.fullmatch(time):
            time = b"-"
        host = self.hostname if _HOST.fullmatch(self.hostname) else "-"
        begin = b'<%d>1 %s %s %s - %s [meta sequenceId="%d"][origin software="teleport_db" swVersion="%s"] ' % (
            self.facility * 8 + severity,
            time,
            host.encode("ascii"),
            self.app_name.encode("ascii"),
            code,
            (number - 1) % LAST_NUMBER + 1,
            self.version.encode("ascii"),
        )
        left = self.limit - len(begin)
        # Whoever gets a longer one may cut it anywhere (RFC 5424, 6.1): better here, where it stays JSON.
        return begin + (record if len(record) <= left else shortened(record, left)[:left])

    def frames(self, records: list[bytes], first: int) -> bytes:
        """Messages in their frames, one behind the other."""
        pieces = []
        for number, record in enumerate(records, first):
            message = self.message(record, number)
            pieces += [b"%d " % len(message), message]
        return b"".join(pieces)
