"""TLS, between the socket and the connection.

A server without a certificate imports nothing of it.

 - certificates  contexts, made whole or not at all; renewal
 - sslsocket     a socket with the few methods that a connection uses, over OpenSSL in memory
 - records       TLS records, as many at a time as a turn of the loop can bear
 - handshake     the handshake: a stage before the connection
 - connection    a connection over TLS, and its orderly end
 - https         which listeners speak TLS
 - devcert       --tls-dev
"""
