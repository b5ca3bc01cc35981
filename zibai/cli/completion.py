"""The command zibai completion: scripts that complete flags and their values in bash, zsh and fish.

They are made from the declarations of options, without another package. After a flag that takes a file, the shell
completes file names; after a flag with choices, these.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from typing import Final

from ..config.option import Option
from ..config.sources import listed
from . import COMMANDS, STEERING
from .arguments import Parser
from .texts import flags_of

HELP = """\
usage: zibai completion bash|zsh|fish

Print a script that completes the flags of zibai in a shell:

  bash    eval "$(zibai completion bash)"    in ~/.bashrc
  zsh     eval "$(zibai completion zsh)"     in ~/.zshrc, after compinit
  fish    zibai completion fish > ~/.config/fish/completions/zibai.fish
"""

_EVERY: Final = (*COMMANDS, *STEERING)
_SERVER: Final = ("--help", "--json", "--control", "--pid-file")

FLAGS: Final = {
    "ps": _SERVER,
    "top": ("--help", "--control", "--pid-file", "--interval"),
    "profile": (*_SERVER, "--pid", "--output"),
    "reload": (*_SERVER, "--wait"),
    "stop": (*_SERVER, "--now", "--wait"),
    "workers": _SERVER,
    "dump": _SERVER,
    "reopen": _SERVER,
    "check": ("--help", "--json", "--strict", "--explain"),
    "migrate": ("--help",),
    "completion": ("--help",),
}
"""The flags of each command; ``check`` has those of the server as well."""

WORDS: Final = {"completion": ("bash", "zsh", "fish"), "migrate": ("gunicorn", "uvicorn", "granian", "waitress-serve")}
"""The words that may come after a command, beside files."""

_OTHERS: Final = [command for command in FLAGS if command != "check"]
"""Commands without the flags of the server."""

_FILES: Final = frozenset({"FILE", "PATH"})
_FOLDERS: Final = frozenset({"DIRECTORY"})


def completion(argv: Sequence[str]) -> int:
    """The command ``zibai completion``; returns its exit code."""
    makers = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    if list(argv) in ([], ["-h"], ["--help"]):
        sys.stdout.write(HELP)
        return 0
    if len(argv) != 1 or argv[0] not in makers:
        Parser(prog="zibai completion").error(f"name one shell: {', '.join(makers)}")
    sys.stdout.write("\n".join(makers[argv[0]]()) + "\n")
    return 0


def _options() -> Iterator[tuple[Option, list[str]]]:
    """The options that have flags, with all of these."""
    for option in listed():
        if not option.positional:
            yield option, [*flags_of(option), *option.older_flags, *option.known_as]


def _bash() -> Iterator[str]:
    yield "_zibai() {"
    yield '    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"'
    yield "    COMPREPLY=()"
    yield '    local command="" known=""'
    yield '    if [[ "$COMP_CWORD" -gt 1 ]]; then command="${COMP_WORDS[1]}"; fi'
    yield '    case "$command" in'
    for command in _OTHERS:
        # Without words of its own, bash completes files.
        known, words = " ".join(FLAGS[command]), " ".join(WORDS.get(command, ()))
        reply = f'case "$word" in -*) known="{known}" ;; *) known="{words}" ;; esac'
        yield f"        {command}) {reply}"
        yield '            COMPREPLY=($(compgen -W "$known" -- "$word")); return ;;'
    yield "    esac"
    yield '    case "$before" in'
    for option, flags in _options():
        pattern = "|".join(flags)
        if option.kind is bool:
            continue
        if option.choices:
            yield f'        {pattern}) COMPREPLY=($(compgen -W "{" ".join(option.choices)}" -- "$word")); return ;;'
        elif option.metavar in _FILES:
            yield f'        {pattern}) COMPREPLY=($(compgen -f -- "$word")); return ;;'
        elif option.metavar in _FOLDERS:
            yield f'        {pattern}) COMPREPLY=($(compgen -d -- "$word")); return ;;'
        else:
            yield f"        {pattern}) return ;;"
    yield "    esac"
    every = " ".join(flag for _, flags in _options() for flag in flags if flag.startswith("--"))
    yield '    if [[ "$word" == -* && "$command" == check ]]; then'
    yield f'        COMPREPLY=($(compgen -W "{every} {" ".join(FLAGS["check"])}" -- "$word"))'
    yield '    elif [[ "$word" == -* ]]; then'
    yield f'        COMPREPLY=($(compgen -W "{every} --help --help-all --version" -- "$word"))'
    yield '    elif [[ "$COMP_CWORD" == 1 ]]; then'
    yield f'        COMPREPLY=($(compgen -W "{" ".join(_EVERY)}" -- "$word"))'
    yield "    fi"
    yield "}"
    yield "complete -o bashdefault -F _zibai zibai"


def _text(option: Option) -> str:
    return option.brief or option.help.partition(";")[0]


def _zsh() -> Iterator[str]:
    yield "#compdef zibai"
    yield "_zibai() {"
    yield "    local -a more=()"
    yield '    if (( CURRENT > 2 )); then case "$words[2]" in'
    for command in _OTHERS:
        words = f"compadd {' '.join(WORDS[command])}" if command in WORDS else ""
        files = "" if command == "completion" else "_files"
        values = f"*:value:{{{'; '.join(filter(None, (words, files)))}}}"
        yield f"        {command}) _arguments {' '.join(FLAGS[command])} '{values}'; return ;;"
    yield f"        check) more=({' '.join(FLAGS['check'])}) ;;"
    yield "    esac; fi"
    yield "    _arguments -s $more \\"
    for option, flags in _options():
        for flag in flags:
            # A flag of several values is repeated, since zsh cannot know where they end.
            star = "'*'" if option.kind is list else ""
            yield f"        {star}{flag}'[{_zsh_text(option)}]{_zsh_value(option)}' \\"
    yield f"        '1:application or command:({' '.join(_EVERY)})'"
    yield "}"
    yield "compdef _zibai zibai"


def _zsh_text(option: Option) -> str:
    """A description within brackets and single quotes."""
    return re.sub(r"([\\\[\]:])", r"\\\1", _text(option)).replace("'", "'\\''")


def _zsh_value(option: Option) -> str:
    if option.kind is bool:
        return ""
    if option.choices:
        return f":value:({' '.join(option.choices)})"
    kind = "_files" if option.metavar in _FILES else "_files -/" if option.metavar in _FOLDERS else " "
    return f":{option.name}:{kind}"


def _fish() -> Iterator[str]:
    yield f"complete -c zibai -n __fish_is_first_token -a '{' '.join(_EVERY)}'"
    for command, known in FLAGS.items():
        within = f"complete -c zibai -n '__fish_seen_subcommand_from {command}'"
        yield from (f"{within} -l {flag[2:]}" for flag in known)
        if command in WORDS:
            files = " -f" if command == "completion" else ""
            yield f"{within}{files} -a '{' '.join(WORDS[command])}'"
    served = f"-n 'not __fish_seen_subcommand_from {' '.join(_OTHERS)}'"
    for option, flags in _options():
        names = " ".join(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in flags)
        value = "" if option.kind is bool else " -r"
        if option.choices:
            value = f" -x -a '{' '.join(option.choices)}'"
        elif option.metavar in _FOLDERS:
            value = " -x -a '(__fish_complete_directories)'"
        elif value and option.metavar not in _FILES:
            value = " -x"
        text = re.sub(r"(['\\])", r"\\\1", _text(option))
        yield f"complete -c zibai {served} {names}{value} -d '{text}'"
