"""What an ASGI application has given for its response, until its step ends.

Small pieces that are given in one step go out together. So they are kept here, with the trailers that the application
has announced. Everything here is for the thread of the event loop.
"""


class Pending:
    """What an application has given for its response and is not sent, until its step ends; made for the first of it.

    A flush is ``due`` when the step ends. ``trailers`` are there if the application has announced some, and they are
    next once it has given the last piece of the body (``body_over``).
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
        """Nothing of it is sent any more."""
        self.pieces, self.size, self.trailers = [], 0, None

    def take(self) -> bytes:
        """What is to be sent now."""
        pieces, self.pieces, self.size = self.pieces, [], 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
