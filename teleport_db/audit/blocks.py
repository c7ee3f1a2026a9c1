"""gzip files that can be read from any place: members of 64 KiB, each of which says how long it is.

::

    | header, FEXTRA "TD" + bytes of this member | raw deflate of 64 KiB | CRC-32 | 64 KiB |  next member ...

Any gzip reads them (RFC 1952, 2.2: a file is a series of members).  Who wants the bytes at some place goes from
header to header, which costs no decompression, and decompresses the one member that holds them; so a line of a
file that was packed comes in less than a millisecond.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

#: Bytes of each member's content, but for the last one's.
BLOCK = 1 << 16

_HEADER = struct.Struct("<4sIBBH2sHI")
_TRAILER = struct.Struct("<II")
#: gzip, deflate, with an extra field.
_MAGIC = b"\x1f\x8b\x08\x04"


class DamagedFile(ValueError):
    """What is no file of this kind, or was changed; the text says where."""


def member(content: bytes, level: int = 6) -> bytes:
    """One member with ``content``, of :data:`BLOCK` bytes or less."""
    packer = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(content) + packer.flush()
    size = _HEADER.size + len(packed) + _TRAILER.size
    header = _HEADER.pack(_MAGIC, 0, 0, 255, 8, b"TD", 4, size)
    return header + packed + _TRAILER.pack(zlib.crc32(content), len(content))


class Packer:
    """Writes ``target``, 0600, with what ``source`` has, a member at a time; OSError, and then it is to be closed."""

    def __init__(self, source: Path, target: Path) -> None:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._out = os.fdopen(fd, "wb")
        try:
            self._content = open(source, "rb")  # noqa: SIM115 - closed by close
        except BaseException:
            self._out.close()
            raise

    def pack(self) -> bool:
        """One member; False when there was no more, and all of it is synced."""
        block = self._content.read(BLOCK)
        if block:
            self._out.write(member(block))
            return True
        self._out.flush()
        os.fsync(self._out.fileno())
        return False

    def close(self) -> None:
        """Close both files, whatever of them was packed."""
        self._content.close()
        with contextlib.suppress(OSError):  # a full disk was told of before
            self._out.close()


class BlockFile:
    """One such file, read from any place; OSError and :class:`DamagedFile`."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._starts, self.size = self._walk()
        except BaseException:
            os.close(self._fd)
            raise
        self._last = (-1, b"")

    def _walk(self) -> tuple[list[int], int]:
        """Where each member begins, and the end; bytes of the content."""
        starts, end = [0], os.fstat(self._fd).st_size
        while starts[-1] < end:
            head = os.pread(self._fd, _HEADER.size, starts[-1])
            if len(head) < _HEADER.size:
                raise DamagedFile(f"its member at byte {starts[-1]} is cut")
            magic, _, _, _, extra, mark, length, size = _HEADER.unpack(head)
            if (magic, extra, mark, length) != (_MAGIC, 8, b"TD", 4) or size < _HEADER.size + _TRAILER.size:
                raise DamagedFile(f"it has no member at byte {starts[-1]}")
            starts.append(starts[-1] + size)
        if starts[-1] != end:
            raise DamagedFile("its last member is cut")
        if len(starts) == 1:
            return starts, 0
        last = os.pread(self._fd, 4, end - 4)
        return starts, (len(starts) - 2) * BLOCK + int.from_bytes(last, "little")

    def block(self, number: int) -> bytes:
        """The content of a member, counted from 0."""
        if self._last[0] == number:
            return self._last[1]
        start, end = self._starts[number], self._starts[number + 1]
        data = os.pread(self._fd, end - start, start)
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            content = unpacker.decompress(data[_HEADER.size : -_TRAILER.size], BLOCK)
        except zlib.error as error:
            raise DamagedFile(f"its member at byte {start} cannot be decompressed") from error
        if _TRAILER.unpack(data[-_TRAILER.size :]) != (zlib.crc32(content), len(content)):
            raise DamagedFile(f"its member at byte {start} is not what was packed")
        self._last = (number, content)
        return content

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes of the content from ``offset`` on; fewer at its end."""
        pieces = []
        while size > 0 and offset // BLOCK < len(self._starts) - 1:
            piece = self.block(offset // BLOCK)[offset % BLOCK : offset % BLOCK + size]
            if not piece:
                break
            pieces.append(piece)
            offset, size = offset + len(piece), size - len(piece)
        return b"".join(pieces)

    def pieces(self, offset: int = 0) -> Iterator[bytes]:
        """All of the content from ``offset`` on, a member at a time."""
        for number in range(offset // BLOCK, len(self._starts) - 1):
            yield self.block(number)[offset % BLOCK if number == offset // BLOCK else 0 :]

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)
