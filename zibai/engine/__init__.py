"""One server: everything that waits, and the runners that call the gateway.

A connection has one owner at a time: the loop, which never blocks, or a runner, which may. So it has two sides: the
loop uses a Connection, and a runner a Stream. Both share one Sender, which holds the bytes on their way out.

 - states          the states of a connection: owner, what is watched, and which state may follow
 - context         limits and collaborators that the connections of one server share
 - loop            the server loop: one turn of it, and what other threads may ask of it
 - inbox           what runners hand to the loop
 - shutdown        the end of the loop, and which process gets the idle connections
 - pollable        an entry of a loop's table: a connection, or a stage before one
 - table           the connections of a loop: what the poller watches for each
 - queueing        requests that wait for a runner for too long
 - connection      one client, from its first byte to its last: the loop's side
 - receiving       how a request comes in: its head, its body, and the part of the body that the application leaves
 - expiry          what happens when the deadline of a connection has passed
 - stream          the runner's side of a connection, which may block
 - async_stream    the side of the tasks of an event loop, for HTTP and WebSocket
 - async_request   one HTTP request of a task, with its body
 - message_stream  a WebSocket, as its task uses it
 - message_limits  the limits and counters of a WebSocket
 - task_stream     a stream that the loop tells what its client does
 - task_loop       the server loop of tasks
 - reading         a streamed body, which a runner reads
 - sending         the part that both sides share: the bytes on their way out, and their lock
 - outgoing        the queue of unsent data: bytes without a copy, and files
 - load            the work and memory that all clients together may cost the server
 - deferred        connections that are not read from for a while
 - pace            how long a client may take, for a body and for a response
 - lingering       connections that stay for a moment after the last response
 - parting         sockets that are shut down, and closed a little later so that no response is lost
 - body            the body of one request while it is read: limits, memory, files, and room
 - preamble        stages before a connection that wait by themselves, and the PROXY header
 - overload        clients that come while no runner is free
 - spread          how many new clients one worker takes before its siblings
 - admission       which new clients are let in
 - capacity        more clients than connections
 - health          beats, slow requests, request time limits
 - backends        threads and greenlets
"""
