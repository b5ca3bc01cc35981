"""The parts of an ASGI response that are kept until the step of its application ends.

Small pieces that are given in one step go out together. So they are kept here, with the trailers that the application
has announced. Everything here is for the thread of the event loop.
"""


class Pending:
    """Pieces of a response that are not sent yet; made for the first piece that is kept.

    A flush is ``due`` when the step ends. ``trailers`` is set if the application has announced some. They come after
    the last piece of the body (``body_over``).
    """

    __slots__ = ("body_over", "due", "pieces", "size", "trailers")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.size = 0
        self.due = self.body_over = False
        self.trailers: list[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Pending: {self.size} bytes in {len(self.pieces)} pieces>"

    def clear(self) -> None:
        """Drop all pieces."""
        self.pieces, self.size, self.trailers = [], 0, None

    def take(self) -> bytes:
        """Take all pieces, to be sent."""
        pieces, self.pieces, self.size = self.pieces, [], 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
