"""A child that the application forks closes its copies of what the server has."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from support import environment

SCRIPT = """
import os, socket
from zibai.system.forks import close_in_children

class Closed:
    # A socket of gevent that is closed.
    def __getattr__(self, name):
        raise OSError(9, "Bad file descriptor")

others = [Closed() for _ in range(20)]
sockets = [socket.socket() for _ in range(20)]
close_in_children(*others, *sockets)
child = os.fork()
if not child:
    os._exit(sum(each.fileno() >= 0 for each in sockets))
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), sum(each.fileno() >= 0 for each in sockets))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_one_that_cannot_be_closed_leaves_no_other_open() -> None:
    command = [sys.executable, "-c", SCRIPT]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.stderr) == ("0 20\n", "")
