"""Any function kept running in processes.

It knows nothing of HTTP, listeners and options; the server is one user of it, zibai.Supervisor another.

 - roster      how many workers, which is next, which is late: facts and decisions, with a clock that tests set
 - mainloop    the parent's loop: waits for facts, tells the roster, does what it decides
 - child       a worker as its parent sees it
 - pipe        the parent as its worker sees it, and the words between them
 - messages    messages through a pipe, without waiting for the other side
 - sentinel    the end of another process as something that can be waited for
 - sharing     sockets and handles for a process that is spawned on Windows
 - waiting     waiting for any number of things, also on Windows
 - preload     workers that are forked from a process with the application in it
 - output      what workers print
 - pulse       whether the parent itself stands still
 - worker      a supervised function in its process
 - supervisor  zibai.Supervisor
 - handle      what a program may do with a supervisor that runs
 - prompt      the prompt zibai>>
 - hub         threads of the system in a program that gevent has patched
"""
