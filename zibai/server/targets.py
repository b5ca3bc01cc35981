"""The main functions of the processes that a parent spawns: of a worker, and of the loader.

The parent names them by this module, and each imports what it runs in the new process. So the parent holds no engine,
no gateway and no protocol in memory, which it does not use.
"""

from typing import Any


def run_worker(*args: Any, **keywords: Any) -> None:
    """See :func:`zibai.server.worker.run_child`."""
    from .worker import run_child

    run_child(*args, **keywords)


def run_loader(*args: Any, **keywords: Any) -> None:
    """See :func:`zibai.server.loader.run_loader`."""
    from .loader import run_loader as run

    run(*args, **keywords)
