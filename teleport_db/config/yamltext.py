"""YAML text to a tree that remembers where everything stood.

The tree is built from PyYAML's parse events and never from its constructors, so no tag can make an
object; aliases, anchors and tags are refused, as are duplicate keys, 1 MiB of text and 32 levels.
The parser of libyaml is used where it is there: 1 MiB takes the other one minutes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import attrs
import yaml

from teleport_db.errors import ConfigError

#: The largest text that is read, in bytes of UTF-8.
SIZE_LIMIT = 1024 * 1024
#: How deep mappings and sequences may be nested.
DEPTH_LIMIT = 32

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER: Any = yaml.resolver.Resolver()
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_./:*-]{1,64}")


@attrs.frozen
class Node:
    """A scalar, a sequence or a mapping, and its place.

    :param kind: ``scalar``, ``sequence`` or ``mapping``.
    :param text: of a scalar, as it is after quotes and escapes.
    :param plain: whether a scalar stood without quotes.
    :param items: of a sequence.
    :param entries: of a mapping: each key to the key's own node and the value.
    :param line: counted from 1.  :param column: counted from 1.
    """

    kind: str
    source: str
    path: str
    line: int
    column: int
    text: str = ""
    plain: bool = False
    items: tuple[Node, ...] = ()
    entries: dict[str, tuple[Node, Node]] = attrs.field(factory=dict)

    @property
    def is_null(self) -> bool:
        """Whether this is nothing, ``~`` or ``null``: a key without a value."""
        return self.kind == "scalar" and self.plain and self.text in ("", "~", "null", "Null", "NULL")

    def error(self, message: str) -> ConfigError:
        """A ConfigError about this very place."""
        return ConfigError(message, source=self.source, line=self.line, path=self.path)

    def value(self) -> Any:
        """The whole as str, int, float, bool, None, list and dict.

        Dates stay text, for that is what a resource's JSON has.
        """
        if self.kind == "mapping":
            return {key: value.value() for key, (_, value) in self.entries.items()}
        if self.kind == "sequence":
            return [item.value() for item in self.items]
        if self.is_null:
            return None
        return _scalar(self) if self.plain else self.text


@attrs.frozen
class Document:
    """One document of a file of resources: its first line, its plain value, and its tree."""

    line: int
    value: Any
    node: Node


def compose(text: str, source: str) -> Node | None:
    """The tree of the one document in ``text``; None when there is none.

    :raises ConfigError: for anything that is not plain YAML.
    """
    documents = list(_documents(text, source))
    if len(documents) > 1:
        raise documents[1].error("only one document belongs in this file")
    return documents[0] if documents else None


def load_documents(text: str, source: str) -> list[Document]:
    """Every document of a file of resources, as ``tctl create -f`` reads it; empty ones are left out.

    :raises ConfigError: as :func:`compose`.
    """
    return [Document(node.line, node.value(), node) for node in _documents(text, source) if not node.is_null]


def _documents(text: str, source: str) -> Iterator[Node]:
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError:
        raise ConfigError("the text has half a character in it", source=source) from None
    if size > SIZE_LIMIT:
        raise ConfigError(f"{size} bytes are too many: {SIZE_LIMIT} at most", source=source)
    events = _events(text, source)
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            yield _node(next(events), events, source, "", 0)


def _events(text: str, source: str) -> Iterator[yaml.Event]:
    loader = None
    try:
        loader = _Loader(text)
        while loader.check_event():
            yield loader.get_event()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" (column {mark.column + 1})" if mark else ""
        said = ", ".join(part for part in (error.context, error.problem) if part)
        line = mark.line + 1 if mark else 0
        # libyaml looks ahead, and from 0.2.6 on gives up at a depth of its own, a thousand, before it tells of ours.
        deep = "nesting depth" in (error.problem or "")
        words = f"nested more than {DEPTH_LIMIT} deep" if deep else f"not YAML: {said}"
        raise ConfigError(f"{words}{where}", source=source, line=line) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"not YAML: {str(error).splitlines()[0]}", source=source) from None
    finally:
        if loader is not None:
            loader.dispose()


def _node(event: Any, events: Iterator[yaml.Event], source: str, path: str, depth: int) -> Node:
    line, column = event.start_mark.line + 1, event.start_mark.column + 1

    def refused(message: str) -> ConfigError:
        return ConfigError(f"{message} (column {column})", source=source, line=line, path=path)

    if isinstance(event, yaml.AliasEvent):
        raise refused("aliases are not taken: write the value out")
    if getattr(event, "anchor", None) is not None:
        raise refused("anchors are not taken")
    if getattr(event, "tag", None) is not None:
        raise refused("tags are not taken")
    if depth > DEPTH_LIMIT:
        raise refused(f"nested more than {DEPTH_LIMIT} deep")
    if isinstance(event, yaml.ScalarEvent):
        return Node("scalar", source, path, line, column, event.value, plain=not event.style)
    if isinstance(event, yaml.SequenceStartEvent):
        items: list[Node] = []
        while not isinstance(inner := next(events), yaml.SequenceEndEvent):
            items.append(_node(inner, events, source, f"{path}[{len(items)}]", depth + 1))
        return Node("sequence", source, path, line, column, items=tuple(items))
    entries: dict[str, tuple[Node, Node]] = {}
    while not isinstance(inner := next(events), yaml.MappingEndEvent):
        key = _node(inner, events, source, path, depth + 1)
        if key.kind != "scalar":
            raise key.error("a key is a word, not a list or a mapping")
        if key.text in entries:
            first = entries[key.text][0].line
            raise attrs.evolve(key, path=joined_path(path, key.text)).error(f"given twice (first in line {first})")
        value = _node(next(events), events, source, joined_path(path, key.text), depth + 1)
        entries[key.text] = (attrs.evolve(key, path=value.path), value)
    return Node("mapping", source, path, line, column, entries=entries)


def joined_path(path: str, key: str) -> str:
    """The path of ``key`` below ``path``; in quotes where it could be read as another one."""
    step = key if _PLAIN_KEY.fullmatch(key) else repr(key[:64])
    return f"{path}.{step}" if path else step


def _scalar(node: Node) -> Any:
    """A plain scalar by YAML 1.1, as far as JSON goes; ``1_000``, ``0x1f`` and ``1:30`` stay text."""
    tag = _RESOLVER.resolve(yaml.ScalarNode, node.text, (True, False))
    if tag == "tag:yaml.org,2002:bool":
        return node.text.lower() in ("yes", "true", "on")
    if tag == "tag:yaml.org,2002:int" and re.fullmatch(r"[-+]?(0|[1-9][0-9]{0,17})", node.text):
        return int(node.text)
    if tag == "tag:yaml.org,2002:float" and re.fullmatch(r"[-+]?[0-9]{1,17}\.[0-9]{0,17}", node.text):
        return float(node.text)
    return node.text
