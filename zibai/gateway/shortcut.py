"""The short cut for a response of one piece, which most responses are."""

from typing import Final, Protocol

from .. import clock as clocks
from ..clock import clock, head_end
from ..engine.stream import Stream
from ..protocol.http1.request import Request
from ..protocol.http1.response import ResponseHead
from .reply import JOIN, Reply


def _make_reply(complete: bool) -> Reply:
    reply = Reply(ResponseHead("200 OK", ()), Request("HEAD", "/", "/", "", "HTTP/1.1", {}), None, True, b"")
    reply.finish()
    reply.complete = complete
    reply.has_body = True
    return reply


class Response(Protocol):
    """The attributes of an exchange that the short cut uses. ``sent`` is the number of bytes of the body."""

    head: ResponseHead | None
    reply: Reply | None
    sent: int


# The reply of all exchanges while such a response is being sent, and after that. Neither has a byte to send.
_SENDING: Final = _make_reply(complete=False)
_SENT: Final = _make_reply(complete=True)


def send_at_once(exchange: Response, stream: Stream, request: Request, data: object, *, whole: bool = True) -> bool:
    """Send a response of one piece by one send if nothing about it is special; return whether it was sent.

    ``data`` is the first piece of the body, and all of it if ``whole`` or if the head says that it is so long. It does
    what a whole :class:`Reply` would do with such a response, in a third of the time: 3 % of a request to Flask. Raises
    :class:`~zibai.errors.Gone`.
    """
    head, sender = exchange.head, stream.sender
    if head is None or not head.plain or exchange.reply is not None:
        return False
    if (
        type(data) is not bytes
        or (size := len(data)) >= JOIN
        or not request.plain
        or sender.closing
        or stream.service.draining
    ):
        return False
    if head.length == size:
        start = head.data
    elif head.length is None and whole:
        start = b"%bContent-Length: %d\r\n" % (head.data, size)
    else:
        return False
    until, end = clocks.day
    if clock() >= until:
        end = head_end()
    out = start + end + data
    exchange.sent = size
    exchange.reply = _SENDING
    # The same as Stream.send without the cost of a call. Stream.send sends the rest, and handles errors.
    try:
        done = 0 if sender.out else stream.sock.send(out)
    except OSError:
        done = 0
    if done != len(out):
        stream.send(out[done:])
    exchange.reply = _SENT
    return True
