"""Any function kept running in processes.

This wing knows nothing of HTTP, listeners and options. The server uses it, and so does zibai.Supervisor.

 - roster      how many workers run and which is next: facts and decisions, with a clock that tests set
 - generations  which workers are old, which is replaced next, and the course of a restart
 - record      one worker as these decisions see it
 - events      events of workers and restarts, for the log, for counters and for clients that wait
 - watch       which workers are late, or take too much memory
 - backoff     the pause before the next start of a worker
 - mainloop    the parent's loop: it waits for facts, and tells the roster
 - crew        the processes of the workers: how each is made, and which live
 - asked       requests of other threads to that loop
 - child       a worker as its parent sees it
 - starting    the first moments of a worker process, on both sides
 - pipe        the parent as its worker sees it, and the words between them
 - control     the thread of a worker that listens to the parent and to signals
 - messages    messages through a pipe, without waiting for the other side
 - sentinel    a descriptor that tells of the end of another process
 - sharing     sockets and handles for a process that is spawned on Windows
 - waiting     waiting for any number of things, also on Windows
 - preload     workers that are forked from a process with the application in it
 - loader      that process, as its parent sees it
 - forked      such a worker, as its parent sees it
 - output      the text that workers print
 - pauses      time in which this process did not run
 - pulse       whether the parent itself hangs
 - worker      a supervised function in its process
 - supervisor  zibai.Supervisor
 - handle      the methods of a running supervisor for programs and people
 - prompt      the prompt zibai>>
 - hub         threads of the system in a program that gevent has patched
"""
