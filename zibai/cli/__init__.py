"""The command zibai.

Thin: arguments become options, and other wings do the work.

 - arguments  the command line, made from the declarations of options
 - texts      what the declarations say to people: --help, --help-all, docs/options.md
 - ps         zibai ps
 - steer      zibai reload, stop, workers, dump and reopen
 - find       which server a command is for
"""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """The console command; raises SystemExit when its exit code is not 0."""
    from .arguments import main as run

    return run(argv)
