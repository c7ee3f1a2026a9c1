"""A value inside a resource and its path: what a strict reader of a resource is made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

import attrs

from teleport_db.access.matching import compile_pattern, is_pattern
from teleport_db.access.templates import parse_entry
from teleport_db.config.durations import parse_duration
from teleport_db.config.values import did_you_mean, parse_label_key, shown
from teleport_db.config.yamltext import Node, joined_path
from teleport_db.errors import ConfigError

_ROLE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:+-]{0,127}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")

#: How many entries one list may have.
ENTRY_LIMIT = 1000


def whole(texts: Iterable[str]) -> tuple[str, ...]:
    """A tuple without repetitions, order kept."""
    return tuple(dict.fromkeys(texts))


@attrs.frozen
class Field:
    """A value; None stands for one that is not there.

    :param node: where it stands in a file, if it comes from one; for what is not there, where it would belong.
    """

    value: Any
    source: str
    path: str = ""
    node: Node | None = attrs.field(default=None, repr=False)

    @classmethod
    def of(cls, resource: object, source: str) -> Field:
        """The whole of a resource: plain values, or the tree of a file."""
        if isinstance(resource, Node):
            return cls(resource.value(), resource.source, node=resource)
        return cls(resource, source)

    def error(self, message: str) -> ConfigError:
        """A ConfigError about this place."""
        line, column = (self.node.line, self.node.column) if self.node else (0, 0)
        return ConfigError(message, source=self.source, line=line, column=column, path=self.path)

    @property
    def present(self) -> bool:
        return self.value is not None

    @property
    def is_mapping(self) -> bool:
        return isinstance(self.value, Mapping)

    def names(self) -> Iterator[str]:
        """The keys of a mapping, each a text; none when it is not there."""
        if self.present and not self.is_mapping:
            raise self.error("a mapping belongs here")
        for key in self.value or ():
            if not isinstance(key, str):
                raise self.error(f"the key {key!r} is no text: put quotes around it")
            yield key

    def keys(self, *known: str, later: str = "") -> Field:
        """This, after every key was found to be one of ``known``."""
        for key in self.names():
            if key in later.split():
                raise self._key(key).error("is not supported by this version")
            if key not in known:
                raise self._key(key).error(f"unknown key{did_you_mean(key, known)}")
        return self

    def get(self, key: str) -> Field:
        """What is at ``key``, there or not."""
        there = self.node.entries.get(key) if self.node else None
        node = there[1] if there else self.node
        return Field((self.value or {}).get(key), self.source, joined_path(self.path, key), node)

    def _key(self, key: str) -> Field:
        """The key itself, not what is at it."""
        return attrs.evolve(self.get(key), node=self.node.entries[key][0] if self.node else None)

    def need(self, key: str) -> Field:
        """What is at ``key``; its absence is refused."""
        if not self.is_mapping:
            raise self.error("a mapping belongs here")
        found = self.get(key)
        if not found.present:
            raise found.error("is missing")
        return found

    def items(self) -> list[Field]:
        """The items of a list, of one value, or none."""
        if not self.present:
            return []
        if not isinstance(self.value, list | tuple):
            return [self]
        if len(self.value) > ENTRY_LIMIT:
            raise self.error(f"{len(self.value)} entries are too many: {ENTRY_LIMIT} at most")
        nodes = self.node.items if self.node else [None] * len(self.value)
        return [
            Field(value, self.source, f"{self.path}[{index}]", node)
            for index, (value, node) in enumerate(zip(self.value, nodes, strict=True))
        ]

    def text(self, default: str | None = None) -> str:
        """A text; a whole number is taken for one, what YAML made of yes and no is not."""
        if self.value is None and default is not None:
            return default
        if isinstance(self.value, int) and not isinstance(self.value, bool):
            return str(self.value)
        if not isinstance(self.value, str):
            kind = "nothing" if self.value is None else type(self.value).__name__
            raise self.error(f"a text belongs here, not {kind}; put quotes around it")
        if _CONTROL.search(self.value) or len(self.value) > 4096:
            raise self.error("the text is too long or has control characters in it")
        return self.value

    def texts(self) -> tuple[str, ...]:
        """Texts: those of a list, or one alone."""
        return whole(item.text() for item in self.items())

    def word(self, known: tuple[str, ...], later: tuple[str, ...] = ()) -> str:
        """One of ``known``."""
        text = self.text()
        if text in later:
            raise self.error(f"{text} is not supported by this version ({', '.join(known)} is)")
        if text not in known:
            raise self.error(f"{shown(text)} is not known here{did_you_mean(text, known)}")
        return text

    def role_name(self) -> str:
        """The name of a role."""
        text = self.text()
        if not _ROLE_NAME.fullmatch(text):
            raise self.error(f"not a role's name: {shown(text)} (letters, digits and . _ @ : + -, 128 at most)")
        return text

    def entries(self) -> tuple[str, ...]:
        """Names, ``*``, or templates."""
        found = []
        for item in self.items():
            text = item.text()
            if not text:
                raise item.error("a name is missing")
            item.template(text)
            found.append(text)
        return whole(found)

    def label_values(self, key: str) -> tuple[str, ...]:
        """What a label may be: literals, globs, ``^regex$``, templates."""
        if key != "*":
            try:
                parse_label_key(key)
            except ValueError as error:
                raise self.error(str(error)) from None
        found = []
        for item in self.items():
            text = item.text()
            if not item.template(text) and is_pattern(text):
                try:
                    compile_pattern(text)
                except ValueError as error:
                    raise item.error(str(error)) from None
            found.append(text)
        if not found:
            raise self.error("a value is missing ('*' stands for any)")
        if key == "*" and found != ["*"]:
            raise self.error("the label '*' takes the value '*' only")
        return whole(found)

    def template(self, text: str) -> bool:
        """Whether ``text`` has a template; one that cannot be read is refused."""
        try:
            return parse_entry(text) is not None
        except ValueError as error:
            raise self.error(str(error)) from None

    def network(self) -> str:
        """An address, or a network as 10.0.0.0/8; in the one form that stands for it."""
        text = self.text()
        if "/" not in text:
            try:
                return str(ip_address(text))
            except ValueError:
                raise self.error(
                    f"not an address or a network: {shown(text)} (examples: 192.0.2.7, 10.0.0.0/8)"
                ) from None
        try:
            return str(ip_network(text))
        except ValueError:
            pass
        try:
            near = ip_network(text, strict=False)
        except ValueError:
            raise self.error(f"not a network: {shown(text)} (examples: 10.0.0.0/8, 2001:db8::/32)") from None
        raise self.error(f"{shown(text)} has bits behind its length: the network is {near}")

    def boolean(self, *, default: bool = False) -> bool:
        """yes or no; ``default`` when it is not there."""
        words = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}
        if self.value is None:
            return default
        if isinstance(self.value, bool):
            return self.value
        if not isinstance(self.value, str) or self.value.lower() not in words:
            raise self.error("yes or no belongs here")
        return words[self.value.lower()]

    def count(self) -> int:
        """A whole number; 0 when it is not there."""
        if self.value is None:
            return 0
        if not isinstance(self.value, int) or isinstance(self.value, bool) or not 0 <= self.value <= 1_000_000:
            raise self.error("a whole number from 0 to 1000000 belongs here")
        return self.value

    def seconds(self, *, shortest: float = 0.0, never: bool = False) -> float:
        """A length of time in seconds; 0 when it is not there."""
        if self.value is None or (never and self.value == "never"):
            return 0.0
        try:
            found = parse_duration(self.text())
        except ValueError as error:
            raise self.error(str(error)) from None
        if found < shortest:
            raise self.error(f"too short: {self.value} ({shortest:g}s is the shortest)")
        return found
