"""A socket that speaks TLS: the few methods that a connection uses, over ``ssl.SSLObject`` between two buffers.

The system's socket and OpenSSL never meet, so nothing here knows how a thread or a greenlet waits, and gevent has
nothing to patch. Like any non-blocking socket it raises BlockingIOError when there is nothing to be had; but the poller
does not see what lies in here, so nothing does:

 - ``recv`` returns all the plain text that is there.
 - ``send`` encrypts a piece, once, and its last byte does not count as sent before the kernel has taken all that became
   of it. A caller with nothing left to send has nothing left to wait for; until then it comes again with the same bytes
   first, as it does anyway.

OpenSSL gets no more than a few records at a time, so a step takes no longer than that, whatever comes. Then, and when
the end lies behind the bytes that ``recv`` has returned, ``has_bytes`` says that it is worth asking again. What OpenSSL
answers by itself, to a client that asks for new keys, waits in here until the client takes it. While that is much the
socket is ``choked``, and receives nothing.

A write never has to wait for a read, because there is no renegotiation. A runner may receive while the loop sends in
its stead, and OpenSSL allows no two threads in one connection; so each step takes ``_lock``, and none of them waits.
"""

import _socket
import ssl
from _thread import allocate_lock
from typing import TYPE_CHECKING, Final

from .records import Records

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

Socket = _socket.socket

ENCRYPTED_AT_ONCE: Final = 64 * 1024
"""Bytes that are encrypted at a time."""

RECORD: Final = 16 * 1024
"""Bytes of plain text in the largest record."""

OVERHEAD: Final = 1024
"""More than the largest record has besides them."""

ANSWERS: Final = 4096
"""Bytes of OpenSSL's own answers that wait for a client: as many as to a hundred requests for new keys."""


class TLSSocket(Socket):
    """Takes over a non-blocking socket. ``begin`` and ``shake`` come first, by one thread, until ``shake`` is True.

    ``secured`` is None before ``begin``.
    """

    __slots__ = (
        "_answers", "_ended", "_incoming", "_lock", "_outgoing", "_owed", "_plain", "_rest", "_shaken", "records",
        "secured",
    )  # fmt: skip

    def __init__(self, sock: Socket) -> None:
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        self.setblocking(False)
        self.secured: ssl.SSLObject | None = None
        self._shaken = False
        self._lock = allocate_lock()
        self._plain = b""  # came together with the end of the handshake
        self._ended = False  # the client has said so, or nothing more can be read
        self._rest = memoryview(b"")  # encrypted, and not yet taken by the kernel
        self._answers = 0  # how much of that OpenSSL has said by itself; its end
        self.records = Records()
        self._owed = 0  # bytes of plain text that are in it, or went with it, and do not count as sent

    def start_handshake(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.secured = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def receive_raw(self, size: int, flags: int = 0) -> bytes:
        """What the kernel has, as it is."""
        return super().recv(size, flags)

    def send_raw(self, data: "ReadableBuffer") -> int:
        return super().send(data)

    def shake(self, data: bytes) -> bool:
        """Go on with the handshake; whether it is done. SSLError when it has failed. ``said`` is for the client."""
        self._incoming.write(self.records.take(data))
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self._shaken = True
        if self._incoming.pending:
            try:
                self._plain = self._decrypt()
            except BlockingIOError:
                pass  # a record that is not whole yet, or TLS's own
        return True

    def said(self) -> bytes:
        """What is to be sent to the client as it is."""
        return self._outgoing.read()

    @property
    def has_bytes(self) -> bool:
        """Whether ``recv``, or ``shake``, has something that the poller does not know of."""
        return self.records.more or bool(self._plain) or self._ended

    @property
    def choked(self) -> bool:
        """Whether the client has to take something before anything is received from it."""
        return self._answers > ANSWERS

    @property
    def is_shaken(self) -> bool:
        return self._shaken

    @property
    def _tls(self) -> ssl.SSLObject:
        assert self.secured is not None
        return self.secured

    def recv(self, size: int, flags: int = 0) -> bytes:
        with self._lock:
            if self._plain:
                plain, self._plain = self._plain, b""
                return plain
            if self._ended:
                return b""
            if self._answers > ANSWERS:
                self._push()
                if self._answers > ANSWERS:
                    raise BlockingIOError
            records, data = self.records, b""
            if not records.more:
                # Of the record that is not whole yet there may be as much here already.
                data = super().recv(size - RECORD - OVERHEAD)
                if not data:
                    return b""
            self._incoming.write(records.take(data))
            return self._decrypt()

    def push_answers(self) -> None:
        """Send what OpenSSL has said by itself; OSError when there is no room, or the client has left."""
        with self._lock:
            if self._rest:
                self._push()

    def _decrypt(self) -> bytes:
        """All the plain text that is there, b"" at the end. BlockingIOError when there is none yet."""
        pieces, incoming, read = [], self._incoming, self._tls.read
        try:
            while piece := read(RECORD):
                pieces.append(piece)
                if not incoming.pending:
                    break  # instead of an exception that says so
            else:
                self._ended = True
        except ssl.SSLWantReadError:
            pass  # that was all that is whole
        except ssl.SSLError:
            self._ended = True  # whatever it is, it does not come from the client any more
        if self._outgoing.pending:
            self._answer()
        if not (pieces or self._ended):
            raise BlockingIOError
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _answer(self) -> None:
        """Send what OpenSSL has to say to what was read: an alert, new keys. The rest goes before the next piece."""
        answer = self._outgoing.read()
        self._answers += len(answer)
        self._rest = memoryview(bytes(self._rest) + answer)
        try:
            self._push()
        except OSError:
            pass  # no room, or the client has left: the next to send finds out

    def send(self, data: "ReadableBuffer", flags: int = 0) -> int:
        with self._lock:
            if not self._owed:
                while self._rest:
                    self._push()
                # Released at once, since bytearrays with a view on them cannot change.
                with memoryview(data)[:ENCRYPTED_AT_ONCE] as piece:
                    self._owed = self._tls.write(piece)
                self._rest = memoryview(self._outgoing.read())
            taken = self._push()
            if self._rest:
                # So that a slow client is seen to take something.
                sent = min(taken, self._owed - 1)
                if not sent:
                    raise BlockingIOError
            else:
                sent = self._owed
            self._owed -= sent
            return sent

    def _push(self) -> int:
        """Give the kernel what it takes; BlockingIOError when that is nothing."""
        taken = super().send(self._rest)
        self._rest = self._rest[taken:]
        if self._answers:
            self._answers = min(self._answers, len(self._rest))
        return taken

    def say_goodbye(self) -> bytes:
        """Say that nothing more comes, and that this is in order; return what the kernel has not taken of that."""
        with self._lock:
            if not self._shaken or self._rest:
                return b""
            try:
                self._tls.unwrap()
            except OSError:
                pass  # the client has not said so, too; or it cannot be said any more
            self._rest = memoryview(self._outgoing.read())
            if self._rest:
                try:
                    self._push()
                except OSError:
                    pass  # no room, or the client has left: what is left is returned
            return bytes(self._rest)
