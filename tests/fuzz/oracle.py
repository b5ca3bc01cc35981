"""What must be true of every input, by whichever lane it was read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h11

from zibai.protocol.http1.response import CONTINUE

from .subject import Broken

if TYPE_CHECKING:
    from .subject import Trace

REFUSALS = {400, 408, 413, 414, 417, 431, 501, 503, 505}


def statuses(trace: Trace) -> list[int]:
    """Those of the final answers; raises :class:`Broken` unless there is one for each call, and at most a refusal."""
    found = []
    rest = trace.answers
    for call in trace.calls:
        if call.forged:
            raise Broken(f"a field has forged a key: {call.environ}")
        if found and not rest and trace.ended and trace.calls[len(found) - 1].fails:
            raise Broken("the application was called behind an answer that was cut")
        answer = _read(rest, call.method, trace.ended)
        if answer is None:
            if not call.fails or call is not trace.calls[-1] or not trace.ended:
                raise Broken(f"no whole answer to {call.method} {call.environ['REQUEST_URI']}")
            return [*found, 0]
        status, rest, last = answer
        found.append(status)
        if last and (call is not trace.calls[-1] or rest or not trace.ended):
            raise Broken("more came behind Connection: close, or the connection stays")
    rest = rest.removeprefix(CONTINUE)  # to one whose body did not come
    if rest:
        answer = _read(rest, "GET", trace.ended)
        if answer is None:
            raise Broken("something that is no answer")
        status, rest, last = answer
        if status not in REFUSALS or rest or not last or not trace.ended:
            raise Broken(f"{status} is no refusal, or not the end")
        found.append(status)
    return found


def _read(data: bytes, method: str, ended: bool) -> tuple[int, bytes, bool] | None:
    """Status of the first answer, what is behind it, and whether it says close; None if it is not whole."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    status = 0
    last = marked = False
    try:
        while True:
            event = client.next_event()
            if event is h11.NEED_DATA:
                if not ended or not data:
                    return None
                marked = True
                client.receive_data(b"")
            elif isinstance(event, h11.Response):
                status = event.status_code
                last = any(name == b"connection" and b"close" in value.lower() for name, value in event.headers)
            elif isinstance(event, h11.EndOfMessage):
                return status, client.trailing_data[0], last
            elif isinstance(event, h11.ConnectionClosed):
                return None
    except h11.RemoteProtocolError as error:
        if marked:
            return None  # it ends too early
        raise Broken(f"an answer that h11 does not take: {error}, {data[:200]!r}") from None


def compare(first: Trace, second: Trace) -> None:
    """Two lanes, and two ways to cut, give the same."""
    for one, other in ((first.calls, second.calls), (statuses(first), statuses(second))):
        if one != other:
            raise Broken(f"the lanes differ: {one} and {other}")
    if first.ended != second.ended:
        raise Broken(f"one lane ends the connection: {first.ended} and {second.ended}")
