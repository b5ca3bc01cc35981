"""The shape of a head: the names of its fields, in their order and as they are spelled.

A client sends other values with each request, but it is a program, which writes the same names in the same order. So a
server meets few shapes, and each that comes often gets an expression of its own, in which only the method, the target
and the values are open. One match in C then knows every byte of a head, and what follows from the names alone has been
found before: the keys of the environ, and where the fields stand that decide about something.

The expression matches in one way or not at all, as those of :mod:`.fast` do, so it takes linear time.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from .request import CONNECTION, DROPPED, FORWARDS, FRAMES, HOST_FIELD, LENGTH, learn_name, names

SAMPLE: Final = 256
"""Of so many heads that no shape has read, the shape of one is remembered. So frequent shapes are remembered soon, and
a client that invents names makes the server compile an expression, in up to 2 ms, only for one in so many requests."""

MAX_SHAPE_FIELDS: Final = 48
"""Fields of a head whose shape may be remembered."""

MAX_SHAPE_TEXT: Final = 1024
"""Characters of all names of such a head."""

MAX_SHAPES: Final = 8
"""Shapes of one number of fields that are remembered. A browser's takes 3 KiB. A hostile client can make all of them
take 3 MiB."""

# Groups: the method and the target, in origin-form (RFC 9112 3.2.1). A value begins and ends with a visible character.
_LINE = r"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/[!-~]*+) HTTP/1\.1\r\n"
_VALUE = r"([!-~][ -~]*+)(?<! )\r\n"


class Shape:
    """What follows from the names of a head. It is never changed.

    ``match`` is the expression; its groups are the method, the target and the values. ``spelled`` are the names as they
    came, ``keys`` as an environ has them, ``lower`` in lower case, as bytes. ``host``, ``length``, ``connection`` and
    ``te`` are the places of these fields, -1 without one. ``framed`` says that there is a Content-Length or Connection,
    ``forwards`` that there are fields in which a proxy describes its client.

    Raises ``ValueError`` where names are not enough: without a Host, where two fields have one key, and with fields
    that are hidden from applications or left to h11.
    """

    __slots__ = ("connection", "forwards", "framed", "host", "keys", "length", "lower", "match", "spelled", "te")

    def __init__(self, spelled: Sequence[str], kind: type[str] | type[bytes]) -> None:
        """``spelled`` are names that are tokens; heads are of this ``kind``."""
        self.spelled = tuple(spelled)
        found = [names.get(name) or learn_name(name) for name in spelled]
        self.keys = tuple(key for key, _ in found)
        meanings = {meaning: place for place, (_, meaning) in enumerate(found)}
        if HOST_FIELD not in meanings or {DROPPED, FRAMES} & meanings.keys() or len({*self.keys}) < len(found):
            raise ValueError(f"no shape: {spelled}")
        self.lower = tuple(name.lower().encode("ascii") for name in spelled)
        self.host = meanings[HOST_FIELD]
        self.length = meanings.get(LENGTH, -1)
        self.connection = meanings.get(CONNECTION, -1)
        self.framed = self.length >= 0 or self.connection >= 0
        self.te = self.keys.index("HTTP_TE") if "HTTP_TE" in self.keys else -1
        self.forwards = FORWARDS in meanings
        head = _LINE + "".join(f"{re.escape(name)}: {_VALUE}" for name in spelled) + r"\r\n"
        self.match: Callable[[Any], re.Match[Any] | None] = re.compile(
            head if kind is str else head.encode("ascii")
        ).fullmatch

    def __repr__(self) -> str:
        return f"<Shape: {', '.join(self.spelled)}>"


class Shapes:
    """The shapes that a lane remembers, of heads of a ``kind``: one of so many heads that no shape reads, a ``sample``.

    Any thread may use it without a lock: each lookup and store is one operation of a dict, and what is stored is never
    changed. Of two threads that add a shape at once, one may do so in vain; it is added again when it comes again.
    """

    __slots__ = ("_by_ends", "_end", "_kind", "_last", "_missed", "_sample")

    def __init__(self, kind: type[str] | type[bytes], sample: int) -> None:
        self._kind = kind
        self._sample = sample
        self._end: Any = "\n" if kind is str else b"\n"
        self._last = Shape(["Host"], kind)  # the one that has matched last; which is the next, too, in most cases
        self._by_ends: dict[int, tuple[Shape, ...]] = {}  # the latest first, by the number of line ends
        self._missed = 0

    def find(self, head: Any) -> tuple[Shape, tuple[Any, ...]] | None:
        """The shape of a head, and the groups of its expression; None where none of the shapes is that of the head.

        The names are not looked up in a dict. Finding them would take longer than trying some expressions, most of
        which fail within the first lines.
        """
        shape = self._last
        match = shape.match(head)
        if match is None:
            for shape in self._by_ends.get(head.count(self._end), ()):
                match = shape.match(head)
                if match is not None:
                    self._last = shape
                    break
            else:
                return None
        return shape, match.groups()

    def missed(self, spelled: Callable[[], Sequence[str]]) -> None:
        """Note that no shape has read a plain head; ``spelled`` returns the names of its fields."""
        self._missed += 1
        if self._missed >= self._sample:
            self._missed = 0
            self._add(spelled())

    def _add(self, spelled: Sequence[str]) -> None:
        if len(spelled) > MAX_SHAPE_FIELDS or sum(map(len, spelled)) > MAX_SHAPE_TEXT:
            return
        with suppress(ValueError):
            shape = Shape(spelled, self._kind)
            ends = len(spelled) + 2
            others = [each for each in self._by_ends.get(ends, ()) if each.spelled != shape.spelled]
            self._by_ends[ends] = (shape, *others[: MAX_SHAPES - 1])
