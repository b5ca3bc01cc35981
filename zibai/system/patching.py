"""Whether gevent has patched this process; asked without importing gevent."""

import sys


def is_patched() -> bool:
    """Whether ``threading`` makes greenlets here."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))
