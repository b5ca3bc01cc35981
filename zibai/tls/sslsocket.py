"""A socket that speaks TLS: the few methods that a connection uses, over ``ssl.SSLObject`` between two buffers.

OpenSSL never uses the system's socket. So nothing here depends on how a thread or a greenlet waits, and gevent has
nothing to patch. Like any non-blocking socket it raises BlockingIOError when it has nothing. The poller cannot see the
buffers, so as little as possible stays in them:

 - ``recv`` returns all the plain text that is there.
 - ``send`` encrypts a piece once. Its last byte does not count as sent before the kernel has taken the whole encrypted
   piece. So a caller that has sent everything need not wait for anything. Until then it must begin the next call with
   the rest of the same bytes, as callers of ``send`` do.

OpenSSL gets only a few records at a time, so that each step is short, whatever the client sends. After such a step, or
when the end of the client comes behind the bytes that ``recv`` has returned, ``has_bytes`` tells that the caller should
call ``recv`` again. OpenSSL's own responses, to a client that asks for new keys, wait here until the client takes them.
While there are too many of them the socket is ``choked`` and receives nothing.

A write never waits for a read, because there is no renegotiation. A runner may receive while the loop sends, and
OpenSSL does not allow two threads in one connection; so each step takes ``_lock``, and no step waits.
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
"""More than the other bytes of the largest record."""

OWN_RESPONSES: Final = 4096
"""Bytes of OpenSSL's own responses that may wait for a client: those to a hundred requests for new keys."""


class TLSSocket(Socket):
    """Takes over a non-blocking socket. One thread calls ``start_handshake``, then ``shake`` until that returns True.

    ``secured`` is None before ``start_handshake``.
    """

    __slots__ = (
        "_ended", "_incoming", "_lock", "_outgoing", "_owed", "_own", "_plain", "_rest", "_shaken", "records",
        "secured",
    )  # fmt: skip

    def __init__(self, sock: Socket) -> None:
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        self.setblocking(False)
        self.secured: ssl.SSLObject | None = None
        self._shaken = False
        self._lock = allocate_lock()
        self._plain = b""  # came together with the end of the handshake
        self._ended = False  # the client has ended its side, or nothing more can be read
        self._rest = memoryview(b"")  # encrypted, and not yet taken by the kernel
        self._own = 0  # how many bytes at its end are OpenSSL's own responses
        self.records = Records()
        self._owed = 0  # bytes of plain text that are in it, or went with it, and do not count as sent

    def start_handshake(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.secured = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def receive_raw(self, size: int, flags: int = 0) -> bytes:
        """Receive from the kernel, without decrypting."""
        return super().recv(size, flags)

    def receive_or_end(self, size: int) -> bytes | None:
        """The same, but None when nothing is there, and ``b""`` after an error, as at the end."""
        try:
            return self.receive_raw(size)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return b""

    def send_raw(self, data: "ReadableBuffer") -> int:
        return super().send(data)

    def shake(self, data: bytes) -> bool:
        """Go on with the handshake; return whether it is done. SSLError when it has failed. Then send ``said``."""
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
                pass  # an incomplete record, or a record of TLS itself
        return True

    def said(self) -> bytes:
        """The bytes of OpenSSL that must be sent to the client as they are."""
        return self._outgoing.read()

    @property
    def has_bytes(self) -> bool:
        """Whether ``recv`` or ``shake`` has bytes that the poller does not know about."""
        return self.records.more or bool(self._plain) or self._ended

    @property
    def choked(self) -> bool:
        """Whether the client must take something before anything is received from it."""
        return self._own > OWN_RESPONSES

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
            if self._own > OWN_RESPONSES:
                self._push()
                if self._own > OWN_RESPONSES:
                    raise BlockingIOError
            records, data = self.records, b""
            if not records.more:
                # So many bytes of an incomplete record may be here already.
                data = super().recv(size - RECORD - OVERHEAD)
                if not data:
                    return b""
            self._incoming.write(records.take(data))
            return self._decrypt()

    def push_own_responses(self) -> None:
        """Send OpenSSL's own responses. Raises OSError when there is no room, or the client has left."""
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
                    break  # nothing is left, and another read would raise
            else:
                self._ended = True
        except ssl.SSLWantReadError:
            pass  # the rest is an incomplete record
        except ssl.SSLError:
            self._ended = True  # after any other error nothing can be read any more
        if self._outgoing.pending:
            self._respond()
        if not (pieces or self._ended):
            raise BlockingIOError
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _respond(self) -> None:
        """Send OpenSSL's response to the bytes just read: an alert, new keys. The rest goes before the next piece."""
        answer = self._outgoing.read()
        self._own += len(answer)
        self._rest = memoryview(bytes(self._rest) + answer)
        try:
            self._push()
        except OSError:
            pass  # no room, or the client has left: the next send finds out

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
        """Give the kernel what it takes. Raises BlockingIOError when it takes nothing."""
        taken = super().send(self._rest)
        self._rest = self._rest[taken:]
        if self._own:
            self._own = min(self._own, len(self._rest))
        return taken

    def say_goodbye(self) -> bytes:
        """Send TLS's close_notify, which marks an orderly end; return the bytes that the kernel has not taken."""
        with self._lock:
            if not self._shaken or self._rest:
                return b""
            try:
                self._tls.unwrap()
            except OSError:
                pass  # the client has not sent its close_notify yet, or the connection is broken
            self._rest = memoryview(self._outgoing.read())
            if self._rest:
                try:
                    self._push()
                except OSError:
                    pass  # no room, or the client has left: the rest is returned
            return bytes(self._rest)
