"""WebSocket (RFC 6455) without I/O: the handshake, and bytes in, messages out.

 - handshake  which requests may be upgraded, and the response to them
 - codec      frames: the fast lane for plain messages, which leaves the rest to the reference lane
 - frames     the layout of a frame
 - partial    incomplete messages and frames
 - reference  the reference lane: the protocol of ``websockets``
 - deflate    permessage-deflate (RFC 7692): the negotiation and the compression

Only ``handshake`` can be imported without the package ``websockets``. Nothing here holds a socket or reads a clock.
"""
