"""WebSocket (RFC 6455) without I/O: the handshake, and bytes in, messages out.

 - handshake  which requests may be upgraded, and the response to them
 - codec      frames: the fast lane for plain messages, and what it leaves to the reference lane
 - frames     how a frame is laid out
 - partial    what has come of a message or a frame that is not whole yet
 - reference  the reference lane: the protocol of ``websockets``
 - deflate    permessage-deflate (RFC 7692): what is negotiated, and what is used of it

Only ``handshake`` can be imported without the package ``websockets``. Nothing here holds a socket or reads a clock.
"""
