"""A fuzzer of whole connections: random bytes go in, and what comes out is held against what must always be true.

``inputs`` makes the bytes: files of ``tests/wire`` in a row, mutated, and requests grown from a grammar. ``subject``
runs them through the real server loop, connection, codec and gateway, turned by hand over a real socket, so that a
failure comes again with its seed. ``oracle`` says what must be true: nothing raises but the application; no answer
more than requests that the application has seen, but for one refusal that ends the connection; answers that the strict
parser of others takes; the same requests whatever the lane and wherever the bytes are cut; bounded memory; log lines
that are one line each; and a server that goes on.

``frames`` does the same for WebSockets, over real connections to a server in a thread.

``python -m tests.fuzz --seconds 3600`` from the root of the repository; ``--help`` says how to repeat a failure.
"""
