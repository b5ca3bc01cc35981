"""Answers: one policy that says which fields go out, how the body is framed and whether the connection stays.

Everything an application gives is checked before a byte of it is on the wire; a CR or LF in a name, a value or
the status would let a user of the application write answers of his own (response splitting).
"""

import re
from collections.abc import Iterable
from http import HTTPStatus

from .request import Request

Fields = Iterable[tuple[str, str]]

SERVER = b"Server: zibai\r\n"

_STATUS = re.compile(r"[1-9][0-9]{2}(?: [\t\x20-\x7e\x80-\xff]*)?")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_LENGTH = re.compile(r"[0-9]{1,19}")
# RFC 9110 7.6.1 and PEP 3333: the fields of one hop are the server's.
HOP_BY_HOP = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade",
    }
)  # fmt: skip


def plain_text(status: str, fields: Fields) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The same as plain ``str``; raise ``TypeError``, for the application, when it is no text.

    A subclass of ``str`` (``Markup``, a member of a ``StrEnum``) counts as the text that it holds. No method of its own
    is called, because that could say something else than what was checked.
    """
    pairs = [(_exact(name, "the name of a field"), _exact(value, "the value of a field")) for name, value in fields]
    return _exact(status, "the status"), tuple(pairs)


def _exact(text: object, what: str) -> str:
    if type(text) is str:
        return text
    if not isinstance(text, str):
        raise TypeError(f"{what} must be a str, not {text!r}")
    return str.__str__(text)


def validate(status: str, fields: Fields) -> None:
    """Raise ``ValueError``, for the application, when this plain text cannot be sent."""
    if not _STATUS.fullmatch(status):
        raise ValueError(f"malformed status {status!r}")
    for name, value in fields:
        if not _NAME.fullmatch(name):
            raise ValueError(f"malformed field name {name!r}")
        if not _VALUE.fullmatch(value):
            raise ValueError(f"forbidden character in the field {name}: {value!r}")


def _status_line(status: str) -> str:
    # RFC 9112 4: the space is sent also before a reason that is empty.
    return f"HTTP/1.1 {status if len(status) > 3 else status + ' '}\r\n"


def interim(status: str, fields: Fields) -> tuple[bytes, list[str]]:
    """An interim answer (1xx), which has no framing fields (RFC 9110 15.2); and the fields of one hop, not sent."""
    status, fields = plain_text(status, fields)
    validate(status, fields)
    if status[0] != "1" or status.startswith("101"):
        raise ValueError(f"not an interim status: {status!r}")
    removed = [name for name, _ in fields if name.lower() in HOP_BY_HOP]
    lines = [f"{name}: {value}\r\n" for name, value in fields if name.lower() not in HOP_BY_HOP | {"content-length"}]
    return f"{_status_line(status)}{''.join(lines)}\r\n".encode("latin-1"), removed


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Answer:
    """What an application gave to start_response, checked and written down: all of a head that no request changes.

    Answers that say the same share one, so nobody changes it. ``data`` is the status line and the fields, ``length``
    the Content-Length among them; ``close`` says that the application wants the connection closed. ``removed`` are
    fields of one hop, which are not the application's to send. ``plain`` says that there is nothing in it to think
    about.
    """

    __slots__ = ("bodyless", "close", "code", "data", "dated", "length", "plain", "removed")

    def __init__(self, status: str, fields: Fields) -> None:
        """``status`` and ``fields`` are plain text. Raises what :func:`validate` raises."""
        validate(status, fields)
        self.code = code = int(status[:3])
        self.bodyless = code in (204, 205, 304)
        self.close = self.dated = False
        self.length: int | None = None
        self.removed: list[str] = []
        own_server = False
        lines = [_status_line(status)]
        for name, value in fields:
            key = name.lower()
            if key in HOP_BY_HOP:
                if key == "connection" and "close" in value.lower():
                    self.close = True
                else:
                    self.removed.append(name)
                continue
            if key == "content-length":
                again, self.length = self.length is not None, _length(value, self.length)
                if again or code in (204, 205):
                    continue  # RFC 9110 8.6: once, never with 204, and with 205 it is ours
            own_server |= key == "server"
            self.dated |= key == "date"
            lines.append(f"{name}: {value}\r\n")
        if code == 205:
            # RFC 9110 15.3.6: it has no content, and says so. Unlike 204 it is framed as any other answer, so a client
            # would wait for a body.
            self.length = 0
            lines.append("Content-Length: 0\r\n")
        data = "".join(lines).encode("latin-1")
        self.data = data if own_server else data + SERVER
        self.plain = not (self.bodyless or self.close or self.dated or self.removed)


# What the applications of this process have given before, at most so many. Any thread may read and change it: each step
# is one operation of the dict, and who is late only makes the same once more.
_answers: dict[tuple[str, tuple[tuple[str, str], ...]], Answer] = {}
_MAX_ANSWERS = 256


def prepare(status: str, fields: Fields) -> Answer:
    """What an application answers with; raises ``TypeError`` or ``ValueError`` when it cannot be sent.

    Most answers of an application have the same head, so it is looked for first, by all of it.
    """
    key = (status, tuple(fields))
    try:
        answer = _answers.get(key)
    except TypeError:
        answer = None  # pairs that are lists: allowed by many, and no key of a dict
    return answer or _prepare(*plain_text(*key))


def _prepare(status: str, fields: tuple[tuple[str, str], ...]) -> Answer:
    """The same for plain text, which alone may be a key: subclasses of ``str`` say by themselves what equals them."""
    answer = _answers.get((status, fields))
    if answer is None:
        answer = Answer(status, fields)
        # Applications that set cookies send another one each time, and they are nothing to keep.
        if b"\r\nset-cookie:" not in answer.data.lower():
            if len(_answers) >= _MAX_ANSWERS:
                _answers.clear()
            _answers[status, fields] = answer
    return answer


class Framing:
    """How one answer goes out: its head, and what has to be done to its body.

    ``bodyless``: nothing of a body may be sent (HEAD, 204, 205, 304). ``chunked``: each piece is a chunk.
    ``length``: the bytes that were promised, None where the end is marked otherwise. ``keep_alive``: whether the
    connection may carry another request.
    """

    __slots__ = ("bodyless", "chunked", "head", "keep_alive", "length")

    def __init__(self, request: Request, answer: Answer, size: int | None, keep_alive: bool, end: bytes) -> None:
        """``size`` is that of the whole body in bytes when it is known; ``end`` is the Date and the end of a head."""
        self.bodyless = answer.bodyless or request.method == "HEAD"
        self.chunked = False
        self.length = answer.length
        head = answer.data
        if answer.close:
            keep_alive = False
        if self.length is None and not self.bodyless:
            if size is not None:
                self.length = size
                head += b"Content-Length: %d\r\n" % size
            elif request.is_http11:
                self.chunked = True
                head += b"Transfer-Encoding: chunked\r\n"
            else:
                keep_alive = False  # the end of the connection is the end of the body
        if not keep_alive:
            head += b"Connection: close\r\n"
        elif not request.is_http11:
            head += b"Connection: keep-alive\r\n"
        self.keep_alive = keep_alive
        self.head = head + (b"\r\n" if answer.dated else end)


def _length(value: str, first: int | None) -> int:
    """The value of a Content-Length, which may be said again but not changed."""
    if not _LENGTH.fullmatch(value) or first not in {None, int(value)}:
        raise ValueError(f"malformed or second Content-Length {value!r}")
    return int(value)


def plain(status: HTTPStatus, end: bytes, more: str = "", retry_after: int | None = None) -> bytes:
    """Our own answer to what never reaches an application; the connection ends with it."""
    body = f"{status.value} {status.phrase}{more and ': '}{more}\n".encode()
    again = "" if retry_after is None else f"Retry-After: {retry_after}\r\n"
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n{again}Connection: close\r\n"
    ).encode() + b"%s%s%s" % (SERVER, end, body)
