"""Run by ``.ci/run wheel`` in an environment that has the wheel and h11, and nothing else: it is served from.

Every module is imported, but for those of extras; ``zibai example:app`` answers and ends in order, alone and with
workers.
"""

import importlib
import os
import pkgutil
import re
import signal
import subprocess
import sys
from urllib.request import urlopen

import zibai
from zibai.errors import MissingExtra

OPTIONAL = {
    "dotenv",
    "gevent",
    "prometheus_client",
    "pytest",
    "rich",
    "selenium",
    "setproctitle",
    "trustme",
    "uvloop",
    "watchfiles",
    "websockets",
}


def check_imports() -> None:
    for module in pkgutil.walk_packages(zibai.__path__, "zibai."):
        if module.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(module.name)
        except MissingExtra:
            continue
        except ModuleNotFoundError as error:
            if str(error.name).partition(".")[0] not in OPTIONAL:
                raise


def check_server(*arguments: str) -> None:
    command = [sys.executable, "-m", "zibai", "example:app", "--listen", "127.0.0.1:0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        found = next(filter(None, (re.search(r"listening on (http://\S+)", line) for line in server.stderr)))
        with urlopen(found[1], timeout=30) as response:
            assert response.read() == b"Hello World!"
        server.send_signal(signal.SIGTERM)
        server.stderr.read()
    assert server.returncode == 0, server.returncode


if __name__ == "__main__":
    assert os.path.dirname(zibai.__file__).startswith(sys.prefix), "the installed package, and not a working copy"
    check_imports()
    check_server()
    check_server("-p", "2")
    print(f"the wheel of {zibai.__version__} serves, without any extra")
