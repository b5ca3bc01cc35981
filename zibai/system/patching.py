"""Whether gevent, or eventlet, has patched this process, and whether gevent may; found out without importing either.

A thread of the server runs while the main thread imports the application, which may import ``gevent.monkey`` itself. So
a function here may find that module half imported. Nothing is patched before its import has ended.

On a Python that runs without a GIL (PEP 703), the import of gevent turns the GIL on for the whole process, and all
greenlets run in one thread. A worker would lose the only thing for which such a Python is installed. So threads are the
default there.
"""

import sys
from typing import Any


def is_patched() -> bool:
    """Whether ``threading`` makes greenlets here."""
    is_module_patched = _of_gevent("is_module_patched")
    return is_module_patched is not None and bool(is_module_patched("threading"))


def patcher() -> str:
    """The library that has patched threads or their waiting here: gevent, eventlet, or none."""
    modules = ("thread", "threading", "select")
    if any(map(getattr(sys.modules.get("eventlet.patcher"), "already_patched", {}).get, modules)):
        return "eventlet"
    is_module_patched = _of_gevent("is_module_patched")
    return "gevent" if is_module_patched is not None and any(map(is_module_patched, modules)) else ""


def original(module: str, name: str) -> Any:
    """A function of the standard library as it is without gevent."""
    get_original = _of_gevent("get_original")
    return getattr(sys.modules[module], name) if get_original is None else get_original(module, name)


def _of_gevent(name: str) -> Any:
    """A function of ``gevent.monkey``, or None if that module is not completely imported."""
    return getattr(sys.modules.get("gevent.monkey"), name, None)


def has_gil() -> bool:
    """Whether only one thread at a time runs Python code in this process: on most builds, and with PYTHON_GIL=1."""
    return bool(getattr(sys, "_is_gil_enabled", _always)())


def _always() -> bool:
    return True
