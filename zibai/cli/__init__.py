"""The command zibai.

Thin: arguments become options, and other wings do the work.

 - arguments   the command line, made from the declarations of options
 - texts       what the declarations say to people: --help, --help-all, docs/options.md
 - ps          zibai ps
 - check       zibai check
 - migrate     zibai migrate
 - grammar     how other servers are told what to do: settings of gunicorn, flags
 - counterparts  what each flag and setting of another server becomes here
 - migration   the configuration of another server, as it becomes ours
 - completion  zibai completion
 - findings    what zibai check looks at
 - probe       the process in which zibai check imports the application
 - steer       zibai reload, stop, workers, dump and reopen
 - find        which server a command is for
 - top         zibai top
 - view        what zibai top shows
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
