"""Sets of texts as a role describes them: everything, literals, globs, regular expressions.

Regular expressions are google-re2's, whose time is linear in the text: an administrator's mistake
cannot stop an agent.  They match the whole text, whatever the expression says, so
that ``^a|b$`` is ``a`` or ``b`` and not everything that begins with an ``a``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import attrs
import re2

#: The longest glob or regular expression, in characters.
PATTERN_LIMIT = 1024

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False
_OPTIONS.dot_nl = True
_OPTIONS.max_mem = 1 << 20


@attrs.frozen
class Texts:
    """A set of texts; an empty one has nothing in it.

    :param everything: ``*`` was among what it was made of.
    """

    everything: bool = False
    literals: frozenset[str] = frozenset()
    patterns: tuple[Any, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.everything or self.literals or self.patterns)

    def __contains__(self, text: object) -> bool:
        if not isinstance(text, str):
            return False
        if self.everything or text in self.literals:
            return True
        if not self.patterns:
            return False
        whole = text.encode("utf-8", "replace").decode()  # re2 knows no half characters
        return any(pattern.fullmatch(whole) is not None for pattern in self.patterns)


def is_pattern(text: str) -> bool:
    """Whether a label's value in a role is a glob or a regular expression."""
    return text.startswith("^") or text.endswith("$") or "*" in text


@lru_cache(maxsize=4096)
def compile_pattern(text: str) -> Any:
    """The expression of a glob or of ``^regex$``.

    :raises ValueError: with a sentence, when it is neither.
    """
    if len(text) > PATTERN_LIMIT:
        raise ValueError(f"a pattern of {len(text)} characters is too long: {PATTERN_LIMIT} at most")
    if text.startswith("^") != text.endswith("$"):
        raise ValueError(f"{text!r}: a regular expression begins with ^ and ends with $")
    # The glob's only sign is the star, as in Teleport.
    source = text if text.startswith("^") else ".*".join(re2.escape(part) for part in text.split("*"))
    try:
        return re2.compile(source, _OPTIONS)
    except re2.error as error:
        said = error.args[0] if error.args else error
        said = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
        raise ValueError(f"{text!r} is not a regular expression: {said}") from None
