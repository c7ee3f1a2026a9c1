"""A seeded mutator for every parser of the protocol.

``python -m tests.pgwire.fuzz --executions 1000000 --seed 1``

Each execution takes a good conversation, damages it, divides it, and feeds it to its parser.  Nothing but
a TeleportDBError that blames the other side may come out, and nothing may be held beyond its bound.
The same seed makes the same executions.
"""

from __future__ import annotations

import argparse
import random
import struct
import time
from collections.abc import Callable, Sequence

from teleport_db.errors import LocalProtocolError, TeleportDBError
from teleport_db.pgwire import messages
from teleport_db.pgwire.authentication import METHODS
from teleport_db.pgwire.backend_tls import BackendTLS
from teleport_db.pgwire.executions import MAX_OWED, Executions
from teleport_db.pgwire.frontend import MAX_PART, FrontendScanner
from teleport_db.pgwire.login import MAX_LOGIN_MESSAGE, BackendLogin, Derivation, Done, Refused, Relay, Secret
from teleport_db.pgwire.prepared import Execution
from teleport_db.pgwire.scram import MAX_ITERATIONS
from teleport_db.pgwire.startup import MAX_STARTUP, Cancel, Opening, StartTLS, Startup, StartupMessage
from teleport_db.pgwire.walk import KEPT, BackendWalk
from tests.pgwire import wire


class Broken(AssertionError):
    """A promise did not hold; the input is in the text."""


#: Words that lengths, counts and codes are compared with.
WORDS = [
    struct.pack(">I", word) for word in (0, 3, 4, 5, 8, 255, 10_004, 65536, 65541, 0x3FFFFFFF, 0x80000000, 0xFFFFFFFF)
]
WORDS += [struct.pack(">H", word) for word in (0, 1, 0x7FFF, 0xFFFF)] + [b"\0", b"\0\0", b"\xff", b"\n", b"="]

_STARTUP = wire.startup((b"user", b"bob"), (b"database", b"db"), (b"options", b"-c role\\ x=y --a=b"))
_OK = messages.AUTHENTICATION_OK
_KEY = messages.backend_key_data(5, b"abcd")
_ERROR = messages.error_response("FATAL", "28000", "no", "detail", "hint")

FRONTEND = [
    wire.query(b"SELECT 1") + messages.SYNC,
    wire.parse(b"s", b"SELECT $1", [23]) + wire.bind(b"p", b"s", [1], [b"abcd", None], [1]) + wire.execute(b"p", 5),
    wire.DESCRIBE + wire.close(b"S", b"s") + messages.FLUSH + messages.TERMINATE,
    wire.function_call(952, [b"abcd", None]) + wire.query(b""),
    wire.copy_data(b"1\t2\n") * 3 + wire.COPY_DONE + messages.message(b"f", b"no\0"),
]
OPENINGS = [
    messages.SSL_REQUEST,
    messages.GSSENC_REQUEST,
    messages.cancel_request(7, b"abcdefgh"),
    _STARTUP,
    wire.startup((b"user", b"bob"), (b"replication", b"database"), version=3 << 16 | 9999),
]
BACKEND = [
    _OK + messages.parameter_status(b"a", b"b") + _KEY + messages.ready_for_query() + b"rest",
    messages.negotiate_protocol_version(2, [b"_pq_.x"]) + messages.AUTHENTICATION_CLEARTEXT + _OK + _KEY,
    messages.notice_response("00000", "hello") + _ERROR,
    messages.authentication(10, b"SCRAM-SHA-256\0\0"),
    messages.authentication(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0")
    + messages.authentication(11, b"r=nonce+more,s=c2FsdA==,i=1"),
    messages.authentication(5, b"salt") + _OK + messages.ready_for_query(),
]
ANSWERS = [
    b"".join(messages.message(bytes([kind])) for kind in b"123nsI") + messages.message(b"C", b"SELECT 1\0"),
    messages.message(b"T", b"\0\1") + messages.message(b"D", b"\0\0") * 3 + messages.message(b"C", b"COPY 3\0"),
    messages.message(b"t", b"\0\1\0\0\0\x17") + _ERROR + messages.ready_for_query(b"E"),
    messages.message(b"G", b"\0\0\0") + _ERROR + messages.ready_for_query() + messages.message(b"V", b"abcd"),
    messages.message(b"H", b"\0\0\0")
    + wire.copy_data(b"x" * 70) * 2
    + wire.COPY_DONE
    + messages.message(b"C", b"COPY 2\0"),
    messages.message(b"W", b"\0\0\0") + wire.copy_data(b"k") + wire.COPY_DONE + messages.ready_for_query(),
]
#: What follows a server-first-message once the key is derived.
SERVER_FINALS = [
    messages.authentication(12, b"v=c2lnbmF0dXJl") + _OK + _KEY,
    messages.authentication(12, b"e=other-error"),
    _OK + _ERROR,
]


def mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds with up to four damages."""
    data = bytearray(seeds[int(rng.random() * len(seeds))])
    for _ in range(int(rng.random() * 5)):
        place = int(rng.random() * (len(data) + 1))
        match int(rng.random() * 7):
            case 0:
                data[place : place + 1] = bytes([rng.getrandbits(8)])
            case 1:
                word = WORDS[int(rng.random() * len(WORDS))]
                data[place : place + len(word)] = word
            case 2:
                data[place:place] = WORDS[int(rng.random() * len(WORDS))]
            case 3:
                del data[place : place + 1 + int(rng.random() * 8)]
            case 4:
                del data[place:]
            case 5:
                data[place:place] = seeds[int(rng.random() * len(seeds))]
            case _:
                data[place:place] = data[place : place + 16]
    return bytes(data)


def _pieces(rng: random.Random, data: bytes) -> tuple[bytes, bytes]:
    cut = int(rng.random() * (len(data) + 1))
    return data[:cut], data[cut:]


def _types(data: bytes) -> set[bytes]:
    """The types of whole messages."""
    found = set()
    while data:
        found.add(data[:1])
        data = data[1 + int.from_bytes(data[1:5], "big") :]
    return found


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise Broken(what)


def fuzz_frontend(rng: random.Random, data: bytes) -> None:
    """FrontendScanner: what it releases is a beginning of what came; the executions in it have numbers."""
    scanner, executions = FrontendScanner(), Executions()
    released = b""
    for piece in _pieces(rng, data):
        more, sent = scanner.feed(piece)
        executions.sent(sent, scanner.ends, base=len(released))
        released += more
        _require(scanner.buffered <= MAX_PART + 6, "the scanner holds too much")
    _require(data.startswith(released), "released bytes are not those received")
    _require(len(released) + scanner.buffered == len(data), "bytes were lost")


def fuzz_answers(rng: random.Random, data: bytes) -> None:
    """BackendWalk and Executions: each execution gets one result, whatever a server says."""
    scanner, executions, walk = FrontendScanner(), Executions(), BackendWalk()
    _, sent = scanner.feed(FRONTEND[0] + FRONTEND[1] + messages.SYNC + FRONTEND[3] + FRONTEND[4])
    executions.sent(sent, scanner.ends)
    for piece in _pieces(rng, data):
        executions.answered(walk.feed(piece))
    executions.lost(walk.rows, walk.size)
    _require(executions.idle, "something is owed for ever")
    results = [one.id for one in executions.done if isinstance(one, Execution)]
    _require(sorted(results) == [1, 2, 3, 4], "an execution has no result, or two")


def fuzz_walk(rng: random.Random, data: bytes) -> None:
    """BackendWalk: however it is divided, the same answers, of bounded bodies, and every byte counted."""
    whole = BackendWalk()
    answers = list(whole.feed(data))
    divided = BackendWalk()
    found = [answer for piece in _pieces(rng, data) for answer in divided.feed(piece)]
    # Where a chunk ends within a body that is not kept, its bytes are counted to the next answer.
    told = [[(kind, body, rows) for kind, body, rows, _ in each] for each in (answers, found)]
    _require(told[0] == told[1], "the answers depend on how they were divided")
    _require(all(len(body) <= KEPT[kind] for kind, body, _, _ in answers), "a body is kept beyond its bound")
    _require(whole.between_messages == divided.between_messages, "the end depends on how it was divided")
    for walk, its in ((whole, answers), (divided, found)):
        _require(sum(size for *_, size in its) + walk.size <= len(data), "bytes were counted twice")


def fuzz_executions(rng: random.Random, data: bytes) -> None:
    """Executions: whatever either side says, in whatever turn, each statement has one result at most."""
    executions, scanner, walk = Executions(), FrontendScanner(), BackendWalk()
    numbers: list[int] = []
    base, sides = 0, [mutate(rng, ANSWERS), data]
    while sides[0] or sides[1]:
        side = int(rng.random() * 2) if sides[0] and sides[1] else int(not sides[0])
        cut = 1 + int(rng.random() * len(sides[side]))
        piece, sides[side] = sides[side][:cut], sides[side][cut:]
        if side:
            released, found = scanner.feed(piece)
            if executions.sent(found, scanner.ends, base=base) < len(found):
                sides[1] = b""  # the client waits for an answer
            base += len(released)
        else:
            executions.answered(walk.feed(piece))
        _require(len(executions.owed) <= MAX_OWED, "too much is owed")
        executions.made.clear()
        numbers += [one.id for one in executions.done if isinstance(one, Execution)]
        executions.done.clear()
    executions.lost(walk.rows, walk.size)
    numbers += [one.id for one in executions.done if isinstance(one, Execution)]
    _require(len(numbers) == len(set(numbers)), "a statement has two results")


def fuzz_opening(rng: random.Random, data: bytes) -> None:
    """Opening, in plaintext and in TLS, and what a startup says."""
    opening = Opening(encrypted=rng.random() < 0.5)
    for piece in _pieces(rng, data):
        events = opening.feed(piece)
        _require(opening.buffered < MAX_STARTUP, "the opening holds too much")
        for event in events:
            if isinstance(event, Startup):
                _require(data.find(event.message.raw) >= 0, "the startup is not what came")
                fuzz_startup(rng, event.message.raw)
            if isinstance(event, Startup | Cancel | StartTLS):
                return


def fuzz_startup(_: random.Random, data: bytes) -> None:
    """StartupMessage alone, as the agent reads it."""
    message = StartupMessage.parse(data)
    _require(message.raw == data, "the startup is not what came")
    _require(0 < len(message.user.encode()) < 64 and 0 < len(message.database.encode()) < 64, "names are out of bounds")
    _require(all(len(target.encode()) < 64 for target in message.role_targets), "a target is out of bounds")
    _require((message.replication_kind == "") == (message.replication is None), "a replication connection is none")
    message.check()


def fuzz_login(rng: random.Random, data: bytes) -> None:
    """BackendLogin against a hostile server."""
    login = BackendLogin(_LOGIN, secret=Secret(b"pw", METHODS, "nonce", b"h" * 32), key=(7, b"k" * 32))
    login.start()
    for piece in _pieces(rng, data):
        events = login.feed(piece)
        _require(login.buffered <= MAX_LOGIN_MESSAGE + 1, "the login holds too much")
        if events and isinstance(events[-1], Done | Refused):
            return
        for derivation in (event for event in events if isinstance(event, Derivation)):
            _require(derivation.iterations <= MAX_ITERATIONS, "the server orders too much work")
            _require(len(login.derived(b"k" * 32)) == 1, "a key makes no answer")
            events = login.feed(mutate(rng, SERVER_FINALS))
            _require(not any(isinstance(event, Done) for event in events), "a server proved nothing")
            # A notice may come at any time; half of one may have stood before the answer.
            relayed = b"".join(event.data for event in events if isinstance(event, Relay))
            _require(not _types(relayed) - {b"N"}, "a server proved nothing, and its word goes on")
            return


def fuzz_tls(_: random.Random, data: bytes) -> None:
    """BackendTLS: S or nothing."""
    tls = BackendTLS()
    tls.start()
    _require(tls.feed(data) == (data == b"S"), "TLS began without an S")


def fuzz_fields(_: random.Random, data: bytes) -> None:
    """The readers of bodies."""
    fields = messages.parse_error(data)
    _require(len(fields) <= messages.MAX_ERROR_FIELDS, "too many fields")
    messages.parse_key_data(data)


_LOGIN = wire.startup((b"user", b"bob"))
TARGETS: list[tuple[Callable[[random.Random, bytes], None], Sequence[bytes]]] = [
    (fuzz_frontend, FRONTEND),
    (fuzz_answers, ANSWERS),
    (fuzz_walk, ANSWERS),
    (fuzz_executions, FRONTEND),
    (fuzz_opening, OPENINGS),
    (fuzz_startup, [_STARTUP, OPENINGS[4]]),
    (fuzz_login, BACKEND),
    (fuzz_tls, [b"S", b"N", _ERROR]),
    (fuzz_fields, [_ERROR[5:], _KEY[5:]]),
]


def run(executions: int, seed: int) -> int:
    """So many executions.

    :return: how many of them ended in an error of ours.
    :raises Broken: something else escaped, or a promise did not hold.
    """
    rng = random.Random(seed)
    refused = 0
    for number in range(executions):
        target, seeds = TARGETS[number % len(TARGETS)]
        data = mutate(rng, seeds)
        try:
            target(rng, data)
        except LocalProtocolError as error:
            raise Broken(f"execution {number} of seed {seed}: blames this side: {error}: {data!r}") from error
        except TeleportDBError:
            refused += 1
        except Exception as error:
            raise Broken(f"execution {number} of seed {seed}: {error!r}: {data!r}") from error
    return refused


def main() -> None:
    """Run and tell the rate."""
    parser = argparse.ArgumentParser(description="Fuzz the parsers of PostgreSQL's protocol.")
    parser.add_argument("--executions", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.perf_counter()
    refused = run(options.executions, options.seed)
    seconds = time.perf_counter() - began
    print(f"{options.executions} executions, {refused} refused, {options.executions / seconds:.0f}/s, nothing escaped")


if __name__ == "__main__":
    main()
