"""Readers: from a node of the file to a value, with the place of whatever is wrong.

Made of two things: functions from text to a value, which raise ValueError with a sentence, and the
combinators here, which put a file, a line and a key's path to that sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from teleport_db.config.values import did_you_mean, shown
from teleport_db.config.yamltext import Node

T = TypeVar("T")
Reader = Callable[[Node], T]

#: Said of what Teleport has and this system does not have yet.
NOT_YET = "is not supported by this version"

_YES, _NO = ("yes", "true", "on", "y", "1"), ("no", "false", "off", "n", "0")


def text_of(node: Node) -> str:
    """The text of a single value; what is missing or no single value is refused."""
    if node.kind != "scalar":
        raise node.error(f"a single value belongs here, not a {node.kind}")
    if node.is_null:
        raise node.error("a value is missing")
    return node.text


def scalar(reader: Callable[[str], T]) -> Reader[T]:
    """A reader of text made one of nodes: its ValueError gets a place."""

    def read(node: Node) -> T:
        try:
            return reader(text_of(node))
        except ValueError as error:
            raise node.error(str(error)) from None

    return read


def nonempty(text: str) -> str:
    """Any text with something in it."""
    if not text.strip() or "\x00" in text:
        raise ValueError("a value is missing")
    return text


def boolean(text: str) -> bool:
    """yes or no, in YAML 1.1's words."""
    if text.lower() in _YES:
        return True
    if text.lower() in _NO:
        return False
    raise ValueError(f"yes or no belongs here, not {shown(text)}")


def choice(known: Mapping[str, str], later: Iterable[str] = ()) -> Callable[[str], str]:
    """One of ``known``, whatever its case; the words of ``later`` are told apart from mistakes."""

    def choose(text: str) -> str:
        word = text.lower()
        if word in known:
            return known[word]
        if word in later:
            raise ValueError(f"{shown(text)} {NOT_YET} (one of {', '.join(known)})")
        raise ValueError(f"{shown(text)} is none of {', '.join(known)}{did_you_mean(word, known)}")

    return choose


def same(*words: str) -> dict[str, str]:
    """Words that stand for themselves, for :func:`choice`."""
    return {word: word for word in words}


def many(reader: Reader[T]) -> Reader[tuple[T, ...]]:
    """A list; one value alone is a list of one."""

    def read(node: Node) -> tuple[T, ...]:
        if node.kind == "sequence":
            return tuple(reader(item) for item in node.items)
        return (reader(node),)

    return read


def listed(reader: Reader[T]) -> Reader[tuple[T, ...]]:
    """A list, also when it has one item or none."""

    def read(node: Node) -> tuple[T, ...]:
        if node.kind != "sequence":
            raise node.error("a list belongs here")
        return tuple(reader(item) for item in node.items)

    return read


def section(
    build: Callable[..., T],
    readers: Mapping[str, Reader[Any]],
    *,
    later: Iterable[str] = (),
    required: Iterable[str] = (),
) -> Reader[T]:
    """A mapping with known keys; a key without a value counts as not there."""

    def read(node: Node) -> T:
        if node.kind != "mapping":
            raise node.error(f"a mapping belongs here (keys: {', '.join(readers)})")
        found: dict[str, Any] = {}
        for key, (at, value) in node.entries.items():
            if key in later and not value.is_null:
                raise at.error(NOT_YET)
            if key not in readers and key not in later:
                raise at.error(f"unknown key{did_you_mean(key, readers)}")
            if key in readers and not value.is_null:
                found[key] = readers[key](value)
        for key in required:
            if key not in found:
                raise node.error(f"{key} is missing")
        return build(**found)

    return read
