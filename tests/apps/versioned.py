"""An application whose code is changed by the tests: what it is stands in a file, read when it is imported.

``slow`` in it makes the import take two seconds, ``broken`` makes it fail, ``endless`` makes it hang.
"""

import os
import time
from pathlib import Path

VERSION = Path("version.txt").read_text(encoding="ascii")
if "slow" in VERSION:
    time.sleep(2)  # app
if "endless" in VERSION:
    Path("napping").touch()
    time.sleep(1000)  # app
if "broken" in VERSION:
    raise RuntimeError("this deploy is broken")


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    match environ["PATH_INFO"]:
        case "/echo":
            return [environ["wsgi.input"].read()]
        case "/pid":
            return [str(os.getpid()).encode()]
    return [VERSION.encode()]


def before_serve():
    if "unfit" in VERSION:
        raise RuntimeError("this deploy cannot serve")
