"""The reference lane of WebSocket: the protocol of ``websockets``, and what it leaves to its caller.

It reads frames, checks them and makes the responses to control frames. It neither joins the fragments of a message nor
decodes text.
"""

from codecs import getincrementaldecoder
from collections.abc import Sequence
from typing import Any, Final

from websockets.extensions import Extension
from websockets.frames import Frame, Opcode
from websockets.protocol import SERVER, Protocol

Message = str | bytes

_REASON: Final = 123
"""Bytes of the reason of a close frame (RFC 6455 5.5)."""

_utf8 = getincrementaldecoder("utf-8")


class _Mute:
    """The logger of the protocol: what is wrong is told to the client, and counted as what it is."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 -- as of logging
        return False

    def info(self, *args: object, **rest: object) -> None:
        pass

    error = info


class Reference(Protocol):
    """The protocol of ``websockets`` for the server's side, in the state OPEN."""

    def __init__(self, max_size: int, extensions: Sequence[Extension]) -> None:
        super().__init__(SERVER, max_size=max_size, logger=_Mute())  # type: ignore[arg-type]
        self.extensions = [*extensions]

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            # A close frame may come between the fragments of a message (RFC 6455 5.4), and is no error.
            self.current_size = None
        super().recv_frame(frame)


class Fragments:
    """A message of which not all fragments are there."""

    __slots__ = ("_decoder", "_pieces")

    def __init__(self, *, text: bool) -> None:
        self._decoder = _utf8() if text else None
        self._pieces: list[Any] = []

    def add(self, data: Any, *, last: bool) -> None:
        """Raises UnicodeDecodeError as soon as the text cannot be valid."""
        self._pieces.append(bytes(data) if self._decoder is None else self._decoder.decode(data, last))

    def join(self) -> Message:
        empty: Any = b"" if self._decoder is None else ""
        joined: Message = empty.join(self._pieces)
        return joined


def cut_reason(reason: str) -> str:
    """As much of a reason as a close frame can carry."""
    data = reason.encode("utf-8", "replace")
    return reason if len(data) <= _REASON else data[:_REASON].decode("utf-8", "ignore")


def is_close_code(code: object) -> bool:
    """Whether a close frame may carry this code (RFC 6455 7.4)."""
    if not isinstance(code, int) or isinstance(code, bool):
        return False
    return (1000 <= code <= 1014 and code not in (1004, 1005, 1006)) or 3000 <= code <= 4999
