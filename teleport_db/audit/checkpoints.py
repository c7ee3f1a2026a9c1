"""Signed checkpoints, and the key that ratchets.

::

    {"checkpoint":{"number":7,"count":1234,"previous":"CHAIN","time":"...","key":"K7","next":"K8","signature":"..."},
     "chain":"..."}

    key 8 is made and on the disk ─▶ the checkpoint, signed by key 7, is on the disk ─▶ key 7 is destroyed

``previous`` is the chain value of the line before, so a signature vouches for every line up to there; ``count``
says how many those are.  Whoever takes over the machine finds key 8 only: what checkpoint 7 vouches for cannot be
signed anew.  Killed anywhere, the log has a checkpoint 7 or has none, and the key of what comes next is there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from twisted.logger import Logger

from teleport_db.audit.events import timestamp
from teleport_db.audit.logfile import CHECKPOINT, chained
from teleport_db.certs.files import read_secret, sync_directory, write_secret
from teleport_db.errors import ConfigError

#: Called with the name of each point at which a crash must do no harm.
Point = Callable[[str], None]

_FORMS = {name: re.compile(r"[0-9a-f]{64}") for name in ("key", "next")}
_CHAIN = re.compile(r"(?:[0-9a-f]{64})?")
_SIGNATURE = b',"signature":"'


def no_point(name: str) -> None:
    """Goes on."""


@attrs.frozen
class Checkpoint:
    """What one checkpoint says.

    :param number: from 1 on.
    :param count: lines before it in the whole log, those that retention has removed included.
    :param previous: the chain value of the line before; "" for the first.
    :param time: RFC 3339.
    :param key: the public key it is signed by, hexadecimal; ``next``: that of the next one.
    :param line: all of its bytes, with the end.
    """

    number: int
    count: int
    previous: str
    time: str
    key: str
    next: str
    line: bytes = attrs.field(repr=False)

    @property
    def is_genuine(self) -> bool:
        """Whether its signature is that of its own key."""
        signed, mark, rest = self.line.partition(_SIGNATURE)
        try:
            signature = bytes.fromhex(rest[:128].decode("ascii"))
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.key)).verify(signature, signed)
        except (ValueError, InvalidSignature):
            return False
        return bool(mark) and rest[128:132] == b'"},"'


def read_checkpoint(line: bytes) -> Checkpoint | None:
    """The checkpoint in a line, or None for what is none; nothing of it is verified."""
    if not line.startswith(CHECKPOINT):
        return None
    try:
        said = json.loads(line)["checkpoint"]
        numbers = (said["number"], said["count"])
        texts = {name: said[name] for name in ("previous", "time", "key", "next")}
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    if any(type(number) is not int or not 0 <= number < 1 << 62 for number in numbers):
        return None
    if any(not isinstance(text, str) for text in texts.values()) or not _CHAIN.fullmatch(texts["previous"]):
        return None
    if any(not form.fullmatch(texts[name]) for name, form in _FORMS.items()) or len(texts["time"]) > 64:
        return None
    return Checkpoint(*numbers, **texts, line=line)


class SigningKeys:
    """The key that signs the next checkpoint, and the one behind it, in files of their own, 0600.

    :param directory: made when it is not there.
    :param last: the log's newest checkpoint, if it has one.
    :param entropy: so many random bytes.
    :param at: see :data:`Point`.

    Opening it destroys what a crash has left of older keys.
    """

    log = Logger()

    def __init__(
        self,
        directory: Path,
        last: Checkpoint | None,
        *,
        entropy: Callable[[int], bytes] = os.urandom,
        at: Point = no_point,
    ) -> None:
        self.directory, self._entropy, self._at = directory, entropy, at
        directory.mkdir(mode=0o700, exist_ok=True)
        self.number = 1 if last is None else last.number + 1
        self._key = self._load(self.number)
        if self._key is None or (last is not None and _public(self._key) != last.next):
            if last is not None:
                self.log.error(
                    "the key that signs the audit log's checkpoints is gone; from checkpoint {number} on it is"
                    " another one, and verifying will say so",
                    number=self.number,
                )
            self._key = self._make(self.number)
        self._following = self._load(self.number + 1)
        self._destroy()

    def _path(self, number: int) -> Path:
        return self.directory / f"{number:010d}.key"

    def _load(self, number: int) -> Ed25519PrivateKey | None:
        try:
            return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(read_secret(self._path(number)).decode()))
        except (FileNotFoundError, ValueError):
            return None

    def _make(self, number: int) -> Ed25519PrivateKey:
        seed = self._entropy(32)
        write_secret(self._path(number), seed.hex().encode())
        return Ed25519PrivateKey.from_private_bytes(seed)

    def checkpoint(self, count: int, chain: str, now: float) -> tuple[Checkpoint, str]:
        """The next checkpoint, and the chain value of its line; call :meth:`advance` when it is on the disk.

        :param count: lines before it; ``chain``: the last one's chain value.
        :param now: seconds since the epoch.
        """
        assert self._key is not None
        if self._following is None:
            # On the disk before it is named; and the same again should this checkpoint be lost in a crash.
            self._following = self._make(self.number + 1)
        self._at("key made")
        texts = {
            "previous": chain,
            "time": timestamp(now),
            "key": _public(self._key),
            "next": _public(self._following),
        }
        fields = {"number": self.number, "count": count, **texts}
        signed = CHECKPOINT + json.dumps(fields, separators=(",", ":"))[:-1].encode("ascii")
        body = signed + _SIGNATURE + self._key.sign(signed).hex().encode("ascii") + b'"}'
        line, chain = chained(body, chain)
        return Checkpoint(self.number, count, **texts, line=line), chain

    def advance(self) -> None:
        """The checkpoint is durable: destroy the key that signed it."""
        assert self._following is not None
        self._key, self._following, self.number = self._following, None, self.number + 1
        self._destroy()

    def _destroy(self) -> None:
        """Overwrite and remove all keys but the present one and what is to follow it."""
        for number, path in key_files(self.directory):
            if number not in (self.number, self.number + 1):
                try:
                    with open(path, "r+b") as file:
                        file.write(b"0" * 64)
                        file.flush()
                        os.fsync(file.fileno())
                    self._at("key overwritten")
                    path.unlink()
                    sync_directory(self.directory)
                except OSError as error:
                    self.log.error("an old key of the audit log could not be removed: {error}", error=str(error))


def key_files(directory: Path) -> list[tuple[int, Path]]:
    """The keys that are there, by their numbers."""
    found: list[tuple[int, Path]] = []
    with contextlib.suppress(FileNotFoundError):
        found = [(int(path.stem), path) for path in directory.glob("*.key") if path.stem.isdigit()]
    return sorted(found)


def public_of(path: Path) -> str:
    """The public key of a key file, hexadecimal; "" where it cannot be read, and for what is none."""
    try:
        return _public(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_bytes().decode("ascii"))))
    except (OSError, ValueError):
        return ""


def read_kept(text: bytes, source: str) -> list[Checkpoint]:
    """The checkpoints of a file that was kept elsewhere: one a line, as ``tctl audit checkpoint`` prints them.

    Raises ConfigError for anything else, and for one whose signature is not its key's.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        checkpoint = read_checkpoint(line.strip() + b"\n")
        if checkpoint is None or not checkpoint.is_genuine:
            raise ConfigError("not a checkpoint as tctl audit checkpoint prints it", source=source, line=number)
        found.append(checkpoint)
    if not found:
        raise ConfigError("there is no checkpoint in it", source=source)
    return found


def _public(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes_raw().hex()


def kept_fields(checkpoint: Checkpoint | None) -> dict[str, Any] | None:
    """A checkpoint as JSON, for :func:`from_kept`."""
    return None if checkpoint is None else {"line": checkpoint.line.decode("ascii")}


def from_kept(kept: dict[str, Any] | None) -> Checkpoint | None:
    """The reverse; ValueError for what is none."""
    if kept is None:
        return None
    found = read_checkpoint(str(kept["line"]).encode())
    if found is None:
        raise ValueError("no checkpoint")
    return found
