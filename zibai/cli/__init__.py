"""The command zibai.

It is thin: arguments become options, and other wings do the work.

 - arguments   the command line, made from the declarations of options
 - texts       the texts of the declarations: --help, --help-all, docs/options.md
 - ps          zibai ps
 - check       zibai check
 - migrate     zibai migrate
 - grammar     reading settings of gunicorn and command lines of other servers
 - counterparts  the counterpart of each flag and setting of another server
 - migration   the zibai.toml, as it grows
 - completion  zibai completion
 - findings    the checks of zibai check
 - probe       the process in which zibai check imports the application
 - steer       zibai reload, stop, workers, dump and reopen
 - find        which server a command is for
 - top         zibai top
 - view        the screen of zibai top
 - keys        the keyboard of a terminal
 - profile     zibai profile
 - speedscope  a profile as a file of speedscope
 - flame       a profile as a picture
"""

import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = ("ps", "top", "profile", "check", "migrate", "completion")
STEERING = ("reload", "stop", "workers", "dump", "reopen")
"""Other commands. Each of the first has a module and a function of its name; the others are steer's."""


def main(argv: Sequence[str] | None = None) -> int:
    """The console command; raises SystemExit when its exit code is not 0. Each command imports only what it needs."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv in (["help"], ["version"]):
        argv = [f"--{argv[0]}"]
    # An application that is called like a command is named with its attribute: check:app.
    if argv and argv[0] in COMMANDS:
        return int(getattr(import_module(f".{argv[0]}", __package__), argv[0])(argv[1:]))
    if argv and argv[0] in STEERING:
        from .steer import steer

        return steer(argv)
    from .arguments import parse_args

    options = parse_args(argv)
    from ..server.start import main as run_main

    run_main(options, exits=True)
    return 0
