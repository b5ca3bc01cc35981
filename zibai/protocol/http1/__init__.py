"""HTTP/1 without I/O: bytes in, requests out; answers in, bytes out.

``codec`` cuts the stream of a connection into requests and bodies. It hands each head to a *lane*, a function from the
bytes of one head to what they say. ``reference`` is the lane that reads whatever comes, by h11; ``fast`` stands before
it, takes the plain heads that nearly all clients send, and leaves it the rest. What no lane owns, the policy that is
the same whoever parsed, is ``request.check``. ``response`` has the one framing policy for answers. Nothing here holds a
socket or reads a clock.
"""

from .codec import END, Codec
from .fast import FastLane
from .request import MAX_TARGET, Request

__all__ = ["END", "MAX_TARGET", "Codec", "FastLane", "Request"]
