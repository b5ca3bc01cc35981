"""What differs between machines and systems, a function for each difference.

Everything that exists on one system only is named in here, behind a check of the platform.

 - machine     processors, processor time, kills for lack of memory, limits
 - usage       memory and descriptors of a process
 - terminal    the settings of a terminal, and which processes hear its Ctrl-C
 - signals     signals as bytes on a socket, and how they are held back
 - console     the ends that Windows announces: a closed console, a shutdown
 - title       what ps shows of a process
 - pidfile     --pid-file
 - privileges  from root to the user that serves
 - daemon      the background, and the command that waits until the server is up
 - standard    descriptors 0 to 2, which may be closed at the start
 - home        the directory of the server, by the name that the user gave it
 - forks       what a process that the application forks must close first
 - stacks      where a thread or greenlet is, as text
 - lastword    the end of a process that hangs
 - patching    what gevent has patched in this process
"""
