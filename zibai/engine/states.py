"""The states of a connection, and its owner in each."""

from typing import Final

# The states, and who owns the connection in each.
PROXY: Final = "proxy"  # loop: waits for the header of the PROXY protocol, before anything else


HANDSHAKE: Final = "handshake"  # loop: TLS is agreed upon


HEAD: Final = "head"  # loop: waits for a request, or for the rest of its head


BODY: Final = "body"  # loop: waits for the rest of the body


READY: Final = "ready"  # loop: has a request, waits for a runner


APP: Final = "app"  # runner


FLUSH: Final = "flush"  # loop: the client has not taken the whole answer yet


DISCARD: Final = "discard"  # loop: reads the rest of a body that the application left unread


LINGER: Final = "linger"  # loop: the last answer is out; reads on for a moment, then closes


PARTED: Final = "parted"  # loop: the last, small response is out to a client that asked for the end; see parting


CLOSED: Final = "closed"  # loop: to be closed now


# Why a connection is not read from, though its state would have it so; 0 is no pause.
LATER: Final = 1  # it goes on in the next turn, and needs no further byte for that


STARVED: Final = 2  # there is no room for its body


CHOKED: Final = 3  # its client takes nothing of what TLS answers by itself
