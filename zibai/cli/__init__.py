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

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """The console command; raises SystemExit when its exit code is not 0."""
    from .arguments import main as run

    return run(argv)
