"""The frames of one WebSocket (RFC 6455 5), seen from the server: bytes in, messages out, and the other way round.

As with the heads of HTTP there are two lanes, which behave the same:

 - the *reference lane* is the protocol of ``websockets``. It reads everything, and refuses what is malformed;
 - the *fast lane* delimits frames. A whole, masked frame that is a message by itself, a ping or a pong is read here, in
   a third of the time or less. Any other whole frame goes to the reference lane. A frame that cannot become a good one
   (by its mask, opcode, reserved bits or length) goes there from its head on, with all later bytes. So the codec does
   not wait for the length that such a frame claims.

The protocol of ``websockets`` takes 2 KiB and 28 µs to be made, and most clients send nothing but plain messages and
pongs until they close. So it is made for the first frame of another kind. A property test holds both lanes against
each other.

Reading stops in two cases, and later bytes stay as they came. The codec is *full* while ``max_messages`` messages, or
:data:`ENOUGH` of their characters, are not taken. It is *paused* when one step has taken long enough, because 64 KiB
may have 10,000 frames, and other clients wait.
"""

from collections import deque
from typing import Final

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import CloseCode, Frame, Opcode

from .deflate import Agreed, Deflate
from .frames import LONG, read_size, write_frame
from .partial import LongFrame, Message
from .reference import CONTROL, Reference, shorten_reason

try:
    from websockets.speedups import apply_mask
except ImportError:  # without a wheel and a compiler; then a large message takes five times as long
    from websockets.utils import apply_mask

ENOUGH: Final = 64 * 1024
"""Characters or bytes of messages that are read ahead."""

STEP: Final = 1000
"""The most that one step of reading may cost, in the measure of :attr:`Codec.spent`."""

_CONTROL: Final = frozenset({0x88, 0x89, 0x8A})
_PLAIN: Final = frozenset({0x00, 0x01, 0x02, 0x80, 0x81, 0x82})
_COMPRESSED: Final = _PLAIN | {0x41, 0x42, 0xC1, 0xC2}
"""The first bytes of good frames: of control, and of messages without and with permessage-deflate."""


class Codec:
    """One WebSocket after its handshake.

    ``messages`` are those that were read. The stream that takes one calls :meth:`taken`. ``replies`` are frames to be
    sent: pongs, and the close frame. The stream takes them out. ``spent`` is how long reading has taken since the
    stream has set it to 0: about a microsecond for each frame, more for a long one or one of the reference lane.

    ``full`` and ``paused`` say why reading has stopped (see the module). ``closing`` says that a close frame was made.
    ``over`` says that nothing more comes: the close frames are exchanged, or the client is at fault. Then the
    connection ends once all is sent. ``close`` is the code and the reason of the end, of either side; code 1005 is a
    close frame without a code. ``buffered`` is how many bytes wait here, beside those of messages. ``long`` is a long
    frame that is not whole, instead of the buffer.
    """

    __slots__ = (
        "_buffer", "_compress_from", "_deflate", "_max_messages", "_max_size", "_need", "_protocol", "_raw", "close",
        "closing", "full", "long", "messages", "over", "paused", "replies", "size", "spent",
    )  # fmt: skip

    def __init__(
        self,
        max_size: int,
        max_messages: int,
        agreed: Agreed | None = None,
        compress_from: int = 0,
        *,
        fast: bool = True,
    ) -> None:
        self._max_size = max_size
        self._max_messages = max_messages
        self._compress_from = compress_from if agreed is not None else 0
        self._deflate = None if agreed is None else Deflate(agreed)
        self._protocol: Reference | None = None
        self._buffer: bytes | bytearray = b""
        self._need = 0  # bytes of the frame at the front of the buffer, if they are known
        self.long: LongFrame | None = None
        self._raw = not fast  # whether all bytes go to the reference lane
        self.messages: deque[Message] = deque()
        self.size = 0
        self.full = self.paused = False
        self.spent = 0
        self.replies: list[bytes] = []
        self.close: tuple[int, str] | None = None
        self.closing = self.over = False

    def __repr__(self) -> str:
        state = "over" if self.over else "closing" if self.closing else "open"
        return f"<Codec {state}: {len(self.messages)} messages, {self.buffered} bytes>"

    # From the client.

    def feed(self, data: bytes) -> None:
        """Add bytes of the client, and read as far as they go."""
        if self.over:
            return
        if self._raw:
            self._give(data)
            return
        if self.long is not None:
            if not self.long.add(data):
                return
            data, self.long = self.long.join(), None
        buffer = self._buffer
        if not buffer:
            used = 0 if self.full or self.paused else self._read(data)
            if used < len(data):
                self._keep(data[used:] if used else data)
            return
        assert type(buffer) is bytearray
        buffer += data
        if not (self.full or self.paused) and len(buffer) >= self._need:
            self._read_buffer()

    def _keep(self, data: bytes | bytearray) -> None:
        """Keep the beginning of a frame, or what is not read for a while."""
        if self._need < LONG:
            self._buffer = bytearray(data)
        else:
            self._buffer = b""
            self.long = LongFrame(bytes(data), self._need)

    def taken(self, message: Message) -> bool:
        """A message was taken from the queue. Returns whether that has made room for more: the codec is paused then."""
        self.size -= len(message)
        if not self.full or len(self.messages) > self._max_messages // 4 or self.size > ENOUGH // 4:
            return False
        self.full, self.paused = False, True
        return True

    def shed(self) -> None:
        """Drop the last messages, if they are long: there is no memory for them."""
        while self.size > 2 * ENOUGH:
            self.size -= len(self.messages.pop())

    def go_on(self) -> None:
        """Read on after a pause."""
        if not (self.full or self.over):
            self.paused = False
            self._read_buffer()

    def _read_buffer(self) -> None:
        buffer = self._buffer
        used = self._read(buffer)
        if self._raw or self.over or used == len(buffer):
            self._buffer = b""  # a new buffer, since a large one stays large
        elif type(buffer) is bytearray:
            del buffer[:used]
            if self._need >= LONG:
                self._keep(buffer)

    def _read(self, data: bytes | bytearray) -> int:
        """The fast lane; returns how many bytes are used.

        One function on purpose: each message pays for it.
        """
        at, end, need, messages = 0, len(data), 0, self.messages
        inside, limit = self._is_inside(), self.spent + STEP
        while end - at >= 2:
            first, second = data[at], data[at + 1]
            size, start = second & 127, at + 6
            if size > 125:
                size, start = read_size(data, at)  # start is 0 while the length has not come whole
            stop = start + size
            plain = first in (0x81, 0x82) and not inside and size <= self._max_size
            if second < 128 or not (plain or self._is_good(first, size)):
                self._raw = True
                self._give(bytes(data[at:]))
                return end
            if stop > end or not start:
                need = stop - at if start else 0
                break
            self.spent += 1 + (size >> 10)
            if plain and not self.closing:  # else it comes too late
                masked = data[start:stop] if size < 1024 else memoryview(data)[start:stop]
                message: Message = apply_mask(masked, data[start - 4 : start])
                if first == 0x81:
                    try:
                        message = message.decode()  # type: ignore[union-attr]
                    except UnicodeDecodeError as error:
                        self.fail(CloseCode.INVALID_DATA, error.reason)
                        return end
                messages.append(message)
                self.size += len(message)
            elif not plain and first != 0x8A:  # a pong needs no response
                self._read_other(bytes(data[at:stop]))
                if self.over:
                    return end
                inside = self._is_inside()
            at = stop
            if (len(messages) >= self._max_messages or self.size >= ENOUGH) and not self.closing:
                self.full = True
                break
            if self.spent >= limit and at < end:
                self.paused = True
                break
        self._need = need
        return at

    def _read_other(self, frame: bytes) -> None:
        """A whole frame that is no message by itself."""
        if frame[0] == 0x89:
            self.replies += write_frame(0x8A, apply_mask(frame[6:], frame[2:6]))
        else:
            self._give(frame)

    def _is_inside(self) -> bool:
        """Whether a message in fragments has begun."""
        return self._protocol is not None and self._protocol.current_size is not None

    def _is_good(self, first: int, size: int) -> bool:
        """Whether a masked frame with this head may be a good one."""
        if first in _CONTROL:
            return size <= CONTROL
        open_size = 0 if self._protocol is None else self._protocol.current_size or 0
        return first in (_PLAIN if self._deflate is None else _COMPRESSED) and size <= self._max_size - open_size

    def _reference(self) -> Reference:
        if self._protocol is None:
            self._protocol = Reference(self._max_size, [] if self._deflate is None else [self._deflate])
        return self._protocol

    def _give(self, data: bytes) -> None:
        """Give bytes to the reference lane."""
        protocol = self._reference()
        try:
            for message in protocol.read(data, drop=self.closing):
                self.messages.append(message)
                self.size += len(message)
        except UnicodeDecodeError as error:
            self.fail(CloseCode.INVALID_DATA, error.reason)
        else:
            self._collect()
        self.spent += protocol.spent
        protocol.spent = 0

    def _collect(self) -> None:
        """Take the frames that the protocol wants to send, and its state."""
        protocol = self._reference()
        for piece in protocol.data_to_send():
            if piece:
                self.replies.append(piece)
            else:
                self.over = True
        error = protocol.parser_exc
        if error is not None and not isinstance(error, ProtocolError | PayloadTooBig | UnicodeDecodeError | EOFError):
            raise error  # a bug, which the protocol would log
        sent, received = protocol.close_sent, protocol.close_rcvd
        if self.close is None and (sent or received):
            chosen = received if received is not None and error is None else sent or received
            assert chosen is not None
            self.close = int(chosen.code), chosen.reason
        self.closing = self.closing or sent is not None
        if self.over:
            self._buffer, self.long = b"", None

    @property
    def buffered(self) -> int:
        """Bytes that wait for the rest of their message, or of their frame."""
        buffered = len(self._buffer) if self.long is None else self.long.buffered
        return buffered if self._protocol is None else buffered + self._protocol.buffered

    # To the client.

    def encode(self, message: Message) -> tuple[bytes, ...]:
        """The frame of a message, in pieces. Raises UnicodeEncodeError for text that UTF-8 cannot hold."""
        if isinstance(message, str):
            first, data = 0x81, message.encode()
        else:
            first, data = 0x82, message
        size = len(data)
        if self._compress_from and size >= self._compress_from:
            assert self._deflate is not None
            frame = self._deflate.encode(Frame(Opcode(first & 15), data))
            first, data = first | 0x40, bytes(frame.data)
        return write_frame(first, data)

    def end(self, code: int, reason: str = "") -> None:
        """Make a close frame, unless there was one; the client must respond with its own. ``code`` is a good one."""
        if not self.closing:
            self._reference().send_close(code, shorten_reason(reason))
            self._collect()
            if self.full:  # the close frame of the client may come after messages that the application does not take
                self.full = False
                self.go_on()

    def fail(self, code: int, reason: str = "") -> None:
        """Make a close frame, and expect nothing more of the client (RFC 6455 7.1.7)."""
        if not self.over:
            protocol = self._reference()
            protocol.fail(code, shorten_reason(reason))
            self._collect()
