"""HTTP/1 without I/O: bytes in, requests out; responses in, bytes out.

``codec`` splits the bytes of a connection into requests and bodies. A *lane* parses one head. ``reference`` is the lane
that parses any head, by h11. ``fast`` comes before it, parses the plain heads that nearly all clients send, and leaves
the rest; ``fast_bytes`` is the same for applications that take their fields as bytes. ``shapes`` has the expressions by
which both read frequent heads. The policy, which is the same for all lanes, is ``request.check``. ``response`` has the
one framing policy for responses. Nothing here holds a socket or reads a clock.
"""

from .codec import END, Codec
from .fast import FastLane
from .fast_bytes import BytesLane
from .request import MAX_TARGET, Request

__all__ = ["END", "MAX_TARGET", "BytesLane", "Codec", "FastLane", "Request"]
