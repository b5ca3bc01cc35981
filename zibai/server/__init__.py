"""The processes of the HTTP server.

This wing puts the parts together: options, listeners, workers, and in each worker an engine with a gateway.

 - start         main(): from options to one process or a parent
 - environment   the surroundings of a server: directory, log, user
 - parent        the parent of worker processes
 - single        one process that serves by itself
 - guest         zibai.run() at a prompt
 - worker        the life of a worker
 - control       the thread by which a serving process hears that it must stop
 - peek          whether an application is ASGI, before gevent patches
 - application   the user's code: the application and its hooks
 - targets       the main functions of the processes that a parent spawns
 - loader        the process that imports once and forks (--preload)
 - orders        the loader's end of the pipe to its parent
 - serve         serve(): one application on its sockets
 - assembly      puts its server loops together
 - loops         several server loops in one process, as one
 - together      their reports, as one report
 - aserve        aserve(): the same in an event loop that runs already
 - settings      the keywords of both, as options
 - kinds         what WSGI and ASGI applications need of a server
 - serving       serving(): the same in a thread, within a block
 - fixture       the pytest fixture zibai_server
 - guard         if __name__ == "__main__"
 - listeners     the listeners of the server
 - upgrade       a new server on the same listeners (SIGUSR2)
 - probes        --health-listen: /livez, /readyz, /metrics
 - live          --health-listen: the live page
 - systemd       notifications of systemd
 - places        a directory that is watched: which changes matter
 - reloader      watches the files of directories
 - watching      --reload and --watchfiles: which directories
 - endpoint      the control channel: who may speak, and how
 - commands      the commands of the control channel
 - single_commands  the same in a single process
 - dump          the stacks of a worker
 - ties          hooks, and the callbacks between a server and its supervising process
 - profiling     zibai profile: the parent's part
 - sampling      zibai profile: the worker's part
"""
