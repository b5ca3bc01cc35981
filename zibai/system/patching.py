"""Whether gevent has patched this process, and whether it may; asked without importing gevent.

On a Python that runs without a GIL (PEP 703), the import of gevent turns the GIL on for the whole process, and all
greenlets run in one thread. A worker would lose the only thing for which such a Python is installed. So threads are the
default there.
"""

import sys


def is_patched() -> bool:
    """Whether ``threading`` makes greenlets here."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def has_gil() -> bool:
    """Whether one thread at a time runs Python code in this process: on most builds always, and with PYTHON_GIL=1."""
    return bool(getattr(sys, "_is_gil_enabled", _always)())


def _always() -> bool:
    return True
