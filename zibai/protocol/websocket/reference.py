"""The reference lane of WebSocket: the protocol of ``websockets``, completed by its caller's part.

The protocol reads frames, checks them and makes the responses to control frames. It neither joins the fragments of a
message nor decodes text; :class:`Reference` does.
"""

import sys
from collections.abc import Generator, Iterator, Sequence
from typing import Final

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions import Extension
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import SERVER, Protocol
from websockets.streams import StreamReader

from .partial import Fragments, Message

_REASON: Final = 123
"""Bytes of the reason of a close frame (RFC 6455 5.5)."""

CONTROL: Final = 125
"""Bytes of a control frame (RFC 6455 5.5)."""


_NOT_READ, _NEXT, _READ = range(3)
"""Where reading a frame is: before its head, before its extended length, behind both."""

_FRAME: Final = 12
"""Microseconds that a frame takes, beside one for each KiB of it."""


class _Mute:
    """The logger of the protocol: what is wrong is told to the client, and counted as what it is."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 -- as of logging
        return False

    def info(self, *args: object, **rest: object) -> None:
        pass

    error = info


class Reference(Protocol):
    """The protocol of ``websockets`` for the server's side, in the state OPEN.

    ``spent`` is how long reading has taken, in microseconds, about; the codec sets it to 0.
    """

    def __init__(self, max_size: int, extensions: Sequence[Extension]) -> None:
        super().__init__(SERVER, max_size=max_size, logger=_Mute())  # type: ignore[arg-type]
        self.extensions = [*extensions]
        self._max_size = max_size
        self._in_control = False  # whether the frame that is read is a control frame
        self._length_is = _NOT_READ
        self.reader.read_exact = self._read_exact  # type: ignore[method-assign]
        self._fragments: Fragments | None = None
        self.spent = 0

    def read(self, data: bytes, *, drop: bool) -> Iterator[Message]:
        """The messages that these bytes complete, or none with ``drop``. Raises UnicodeDecodeError."""
        self.receive_data(data)
        for frame in self.events_received():
            assert isinstance(frame, Frame)  # no handshake is read here
            if frame.opcode >= Opcode.CLOSE or drop:
                continue
            if frame.opcode is not Opcode.CONT:
                self._fragments = Fragments(text=frame.opcode is Opcode.TEXT)
            fragments = self._fragments
            assert fragments is not None  # the protocol has refused what has no beginning
            fragments.add(frame.data, last=frame.fin)
            if frame.fin:
                self._fragments = None
                yield fragments.join()

    @property
    def buffered(self) -> int:
        """Bytes that wait for the rest of their message, or of their frame."""
        return len(self.reader.buffer) + (self.current_size or 0)

    @property
    def max_message_size(self) -> int:
        """The limit of the message that the next frame belongs to; its first byte is there when the parser asks.

        A control frame belongs to no message, and may come between the fragments of one that has no byte left.
        """
        self._length_is = _NOT_READ
        self._in_control = self.reader.buffer[0] & 15 >= Opcode.CLOSE
        return (self.current_size or 0) + CONTROL if self._in_control else self._max_size

    @max_message_size.setter
    def max_message_size(self, size: int | None) -> None:
        """The protocol sets it when it is made."""

    def fail(self, code: CloseCode | int, reason: str = "") -> None:
        if code == CloseCode.MESSAGE_TOO_BIG and self._in_control:
            code, reason = CloseCode.PROTOCOL_ERROR, "control frame too long"
        elif code == CloseCode.MESSAGE_TOO_BIG and _is_no_length(sys.exc_info()[1]):
            code, reason = CloseCode.PROTOCOL_ERROR, "the highest bit of a length is set"
        super().fail(code, reason)

    def _read_exact(self, n: int) -> Generator[None, None, bytearray]:
        """Read the next part of a frame: its head, the extended length that this announces, its mask, its data.

        The protocol would accept a length in more bytes than it needs (RFC 6455 5.2).
        """
        data = yield from StreamReader.read_exact(self.reader, n)
        if self._length_is == _NOT_READ:
            self._length_is = _NEXT if data[1] & 127 > CONTROL else _READ
        elif self._length_is == _NEXT:
            self._length_is = _READ
            if int.from_bytes(data, "big") <= (CONTROL if n == 2 else 0xFFFF):
                raise ProtocolError("a length has more bytes than it needs")
        return data

    def recv_frame(self, frame: Frame) -> None:
        self.spent += _FRAME + (len(frame.data) >> 10)
        if frame.opcode is Opcode.CLOSE:
            # A close frame may come between the fragments of a message (RFC 6455 5.4), and is no error.
            self.current_size = self._fragments = None
        super().recv_frame(frame)


def _is_no_length(error: BaseException | None) -> bool:
    """Whether the protocol, which handles this error now, has read a length of which the highest bit is set. There is
    no such length (RFC 6455 5.2)."""
    return isinstance(error, PayloadTooBig) and error.size is not None and error.size >= 2**63


def shorten_reason(reason: str) -> str:
    """As much of a reason as a close frame can carry."""
    data = reason.encode("utf-8", "replace")
    return reason if len(data) <= _REASON else data[:_REASON].decode("utf-8", "ignore")


def is_close_code(code: object) -> bool:
    """Whether a close frame may carry this code (RFC 6455 7.4)."""
    if not isinstance(code, int) or isinstance(code, bool):
        return False
    return (1000 <= code <= 1014 and code not in (1004, 1005, 1006)) or 3000 <= code <= 4999
