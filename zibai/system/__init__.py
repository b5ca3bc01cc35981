"""The differences between machines and systems, a function for each.

Everything that exists on one system only is named here, behind a check of the platform.

 - machine     processors, processor time, kills for lack of memory, limits
 - usage       memory and descriptors of a process
 - terminal    the settings of a terminal, and which processes hear its Ctrl-C
 - signals     signals as bytes on a socket
 - holdback    signals that wait until this process is ready for them
 - console     the ends that Windows announces: a closed console, a shutdown
 - title       the title of a process, which ps shows
 - pidfile     --pid-file
 - privileges  from root to the user that serves
 - daemon      the background, and the command that waits until the server is up
 - standard    descriptors 0 to 2, which may be closed at the start
 - home        the directory of the server, by the name that the user gave it
 - forks       closing copies of descriptors in processes that the application forks
 - stacks      where a thread or greenlet is, as text
 - lastword    the end of a process that hangs
 - patching    whether gevent has patched this process
"""
