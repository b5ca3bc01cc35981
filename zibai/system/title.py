"""The title of a process in ``ps``, if setproctitle is installed. Only people read it, so it may be missing."""


def show(role: str, app: str, state: str = "") -> None:
    """``zibai: worker [example:app] draining``; ``state`` may be empty."""
    try:
        from setproctitle import setproctitle
    except ImportError:
        return
    setproctitle(f"zibai: {role} [{app}] {state}".rstrip())
