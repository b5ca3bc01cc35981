"""What ``ps`` shows of a process, where setproctitle is installed. It is for the eye alone, so it may be missing."""


def show(role: str, app: str, state: str = "") -> None:
    """``zibai: worker [example:app] draining``; without a state where there is nothing to say of it."""
    try:
        from setproctitle import setproctitle
    except ImportError:
        return
    setproctitle(f"zibai: {role} [{app}] {state}".rstrip())
