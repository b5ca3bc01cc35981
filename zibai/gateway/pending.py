"""The parts of an ASGI response that are kept until the step of its application ends.

Small pieces that are given in one step go out together. So they are kept here, with the trailers that the application
has announced. Everything here is for the thread of the event loop.
"""

from typing import Final

from ..clock import clock

TOGETHER: Final = 32 * 1024
"""Bytes that are held until the step of the application ends; more is sent at once."""

STEP: Final = 0.005
"""Seconds for which an application may send without waiting for anything. A client that takes all at once never makes
it wait."""


class Pending:
    """Pieces of a response that are not sent yet; made for the first piece that is kept.

    ``trailers`` is set if the application has announced some. They come after the last piece of the body
    (``body_over``). ``since`` is when this step first gave something, or 0. ``pause`` is how long, in seconds, the
    application has last paused because it does not end.
    """

    __slots__ = ("body_over", "pause", "pieces", "since", "size", "tired", "trailers")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.size = 0
        self.since = 0.0
        self.tired = False
        self.pause = 0.0
        self.body_over = False
        self.trailers: list[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Pending: {self.size} bytes in {len(self.pieces)} pieces>"

    def look(self) -> bool:
        """Something was sent, or a piece was given of which nothing is sent (an empty one, or the body of a HEAD).

        Returns whether the step has lasted so long that the event loop must turn for the others.
        """
        now = clock()
        self.since = self.since or now
        self.tired = now - self.since > STEP
        return self.tired

    def rested(self) -> None:
        """The event loop has turned."""
        self.since, self.tired = 0.0, False

    def clear(self) -> None:
        """Drop all pieces."""
        self.pieces, self.size, self.trailers = [], 0, None

    def take(self) -> bytes:
        """Take all pieces, to be sent."""
        pieces, self.pieces, self.size = self.pieces, [], 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
