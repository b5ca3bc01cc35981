"""The benchmark anyone can run: this server beside the others, on one machine, in one go. ``python -m benchmarks``.

Absolute figures say more about a machine and its day than about a server, so everything here is made for ratios. The
servers take turns, one measurement each, and every round begins with another one; a ratio is taken between two
servers of the same round, and what is reported is the median of the rounds. The limit, to which all are compared, is a
loop that answers a constant (``bareloop``). Each measurement has a process of its own, which was warmed up. What goes
wrong is part of the result, and is shown where the figure is.

It needs Linux (``epoll``, ``/proc``) and wrk. The servers are a table (``servers``), and so are the workloads
(``workloads``) and the figures to reach (``verdict``).
"""
