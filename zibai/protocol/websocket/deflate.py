"""permessage-deflate (RFC 7692): the negotiation, and the compression of one WebSocket.

The windows are small, 4 KiB in both directions where the client allows it, and browsers do: zlib's defaults would cost
316 KiB for each client. Even so a compressor has 32 KiB, so nothing is made before the first message that is
compressed. Browsers always offer the extension, but most WebSockets carry short messages, which are not compressed.
"""

from http import HTTPStatus
from typing import Final, NamedTuple, Self
from zlib import decompressobj

from websockets.exceptions import InvalidHeader, NegotiationError, ProtocolError
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import CTRL_OPCODES, Frame, Opcode
from websockets.headers import build_extension, parse_extension
from websockets.typing import ExtensionName

from ...errors import Refused

OFFERS: Final = 1024
"""The most bytes of all offers of a client. Browsers send 50; parsing 60 KiB takes 50 ms."""

_SETTINGS: Final = {"memLevel": 5}
_BEGINNINGS: Final = frozenset((Opcode.TEXT, Opcode.BINARY))

_BEHIND: Final = frozenset((b"", b"\0", b"\0\0\xff\xff", b"\0\0\0\xff\xff"))
"""What may come behind a final block: the octet that such a sender adds, and what each receiver adds to a message."""

_NAME: Final = ExtensionName("permessage-deflate")
_factory = ServerPerMessageDeflateFactory(
    server_max_window_bits=12, client_max_window_bits=12, compress_settings=_SETTINGS
)


class Agreed(NamedTuple):
    """The result of the negotiation: ``field`` is the value of Sec-WebSocket-Extensions in the response."""

    field: str
    client_no_context: bool
    server_no_context: bool
    client_bits: int
    server_bits: int

    @classmethod
    def from_offers(cls, value: str) -> Self | None:
        """Choose among the offers of a Sec-WebSocket-Extensions field; None if no offer can be used.

        Offers of more than :data:`OFFERS` bytes are declined unread. Raises :class:`Refused` for a malformed field
        (RFC 6455 9.1).
        """
        if len(value) > OFFERS:
            return None
        try:
            offers = parse_extension(value)
        except InvalidHeader as error:
            raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from None
        for name, parameters in offers:
            if name != _NAME:
                continue
            try:
                said, made = _factory.process_request_params(parameters, [])
            except (NegotiationError, ValueError):  # the latter, before 17, for a window that zlib cannot have
                continue  # the next offer may be one that can be used (RFC 7692 5.1)
            return cls(
                build_extension([(name, said)]),
                made.remote_no_context_takeover,
                made.local_no_context_takeover,
                made.remote_max_window_bits,
                made.local_max_window_bits,
            )
        return None


class Deflate(Extension):
    """The compression of one WebSocket; makes compressor and decompressor for the first message that needs them."""

    __slots__ = ("_agreed", "_made")

    name = _NAME

    def __init__(self, agreed: Agreed) -> None:
        self._agreed = agreed
        self._made: PerMessageDeflate | None = None

    def _make(self) -> PerMessageDeflate:
        if self._made is None:
            agreed = self._agreed._replace(client_no_context=False)  # decode() itself begins without it
            self._made = PerMessageDeflate(*agreed[1:], _SETTINGS)
        return self._made

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        """A frame of the client as it was before its compression. Raises what ``websockets`` raises.

        A client may end each message by a final block (RFC 7692 7.2.3.4). zlib reads nothing behind that, but keeps it
        in memory without a limit; so another message needs another decompressor, and more of the same one is refused.
        """
        if self._made is None and not frame.rsv1:
            return frame
        made, alone = self._make(), self._agreed.client_no_context
        if frame.rsv1 and frame.opcode in _BEGINNINGS and (alone or made.decoder.eof):
            made.decoder = decompressobj(wbits=-self._agreed.client_bits)
        decoded = made.decode(frame, max_size=max_size)
        if made.decoder is not None:
            if made.decoder.unused_data not in _BEHIND:
                raise ProtocolError("compressed data goes on behind its final block")
            if alone and frame.fin:
                made.decoder = None  # type: ignore[assignment]  # it is not used again
        return decoded

    def encode(self, frame: Frame) -> Frame:
        """A frame for the client: a message compressed, a control frame as it is (RFC 7692 6.1)."""
        return frame if frame.opcode in CTRL_OPCODES else self._make().encode(frame)
