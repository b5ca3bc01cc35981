"""The processes of the HTTP server.

It puts the parts together: options, listeners, workers, and in each of them an engine with a gateway.

 - start         main(): from options to one process or a parent
 - surroundings  what is around a server: directory, log, pid file, user
 - parent        the parent of worker processes
 - single        one process that serves by itself
 - guest         zibai.run() at a prompt
 - worker        the life of a worker
 - loader        the process that imports once and forks (--preload)
 - serve         serve(): one application on its sockets
 - listeners     the listeners of the server
 - upgrade       SIGUSR2
 - probes        /livez and /readyz
 - systemd       what systemd is told
 - reloader      --watchfiles
"""
