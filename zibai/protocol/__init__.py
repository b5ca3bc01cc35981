"""Bytes in, facts out. No socket, clock, thread or log.

Every rule about requests is here, and is tested without a server.

 - http1             HTTP/1.1: codec, two lanes, requests, responses
 - websocket         WebSocket: the handshake, and messages in frames
 - forwarded         Forwarded and X-Forwarded-*
 - forwarded_plain   the short cut for the usual X-Forwarded-For and X-Forwarded-Proto
 - forwarded_values  the values of these fields
 - proxy_header      the PROXY protocol, versions 1 and 2
"""
