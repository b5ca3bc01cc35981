"""zibai completion: in each shell that is installed here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from zibai.cli import COMMANDS, STEERING
from zibai.cli.arguments import make_parser
from zibai.cli.completion import FLAGS, WORDS, completion

from support import DEADLINE, run, wait_for

if TYPE_CHECKING:
    from pathlib import Path

SHELLS = ["bash", "zsh", "fish"]


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert completion([shell]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", SHELLS)
def test_each_flag_is_in_the_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = script(shell, capsys)
    for flag in make_parser()._option_string_actions:
        if flag not in {"-h", "--help", "--help-all", "--version"}:
            name = flag if shell != "fish" else f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
            assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text), flag


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_takes_the_script(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    file = tmp_path / "script"
    file.write_text(script(shell, capsys), encoding="utf-8")
    subprocess.run([shell, "-n", file], check=True, timeout=20)


@pytest.mark.parametrize("command", [*COMMANDS, *STEERING])
def test_the_flags_of_a_command_are_those_of_its_help(command: str) -> None:
    text = run(command, "--help").stdout
    usage = set(re.findall(r"(?<![\w-])--[a-z-]+", text))
    assert {*FLAGS[command], "--help"} == usage | {"--help"}
    assert set(FLAGS) == {*COMMANDS, *STEERING}
    assert all(word in text for word in WORDS.get(command, ()))


@pytest.mark.parametrize("shell", SHELLS)
def test_each_command_is_in_the_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = script(shell, capsys)
    for command in (*COMMANDS, *STEERING):
        assert len(re.findall(rf"(?<![\w-]){command}(?![\w-])", text)) >= 2, command


LINES = {
    "zibai --max-wor": ["--max-workers", "--max-worker-memory", "--max-worker-descriptors"],
    "zibai a:b --log-level wa": ["warning"],
    "zibai a:b --certfile cert": ["cert.pem"],
    "zibai a:b --chdir ": ["folder"],
    "zibai mi": ["migrate"],
    "zibai a:b --workers ": [],
    "zibai rel": ["reload"],
    "zibai st": ["stop"],
    "zibai reload --w": ["--wait"],
    "zibai stop --n": ["--now"],
    "zibai ps --j": ["--json"],
    "zibai dump --max-wor": [],
    "zibai completion f": ["fish"],
    "zibai completion ": ["bash", "zsh", "fish"],
    "zibai migrate gu": ["gunicorn"],
    "zibai check --st": ["--statsd", "--statsd-prefix", "--stream-request-body", "--strict"],
    "zibai check --max-workers 3 --ex": ["--explain"],
    "zibai check --max-worker-m": ["--max-worker-memory"],
    "zibai a:b --st": ["--statsd", "--statsd-prefix", "--stream-request-body"],
}
"""What is typed before the tab, and what may follow in the place of the last word."""

EACH = "--the-next--"


def ask_bash(file: Path, lines: list[str]) -> str:
    asked = [f". '{file}'"]
    for line in lines:
        words = line.split(" ")
        quoted = " ".join(f"'{word}'" for word in words)
        asked.append(f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _zibai")
        asked.append(f'printf "%s\\n" "${{COMPREPLY[@]}}" {EACH}')
    return told("bash", "-c", "\n".join(asked), folder=file.parent)


def ask_fish(file: Path, lines: list[str]) -> str:
    asked = [f"source '{file}'", *(f"complete -C '{line}'; echo {EACH}" for line in lines)]
    text = told("fish", "-c", "\n".join(asked), folder=file.parent)
    return re.sub(r"\t.*", "", text)  # what it tells about each


def told(*command: str, folder: Path) -> str:
    done = subprocess.run(
        command,
        cwd=folder / "here",
        env={**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder)},
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE,
    )
    assert done.stderr == ""
    return done.stdout


ZSHRC = f"""
autoload -Uz compinit && compinit -u -D
. "$ZDOTDIR/script"
_noted() {{
    # What completion functions add, and not what they only look at.
    compadd() {{
        if [[ -z ${{(M)@:#-*[OAD]*}} ]]; then
            local -a found
            builtin compadd -A found "$@"
            print -rl -- $found >> "$ZDOTDIR/added"
        fi
        builtin compadd "$@"
    }}
    _main_complete
    print -r -- "{EACH}" >> "$ZDOTDIR/added"
}}
zle -C noted complete-word _noted
bindkey '^I' noted
"""
"""zsh completes only for somebody who types."""


def ask_zsh(file: Path, lines: list[str]) -> str:
    folder = file.parent
    (folder / ".zshrc").write_text(ZSHRC, encoding="utf-8")
    added = folder / "added"
    added.write_text("", encoding="ascii")
    near, far = os.openpty()
    shell = subprocess.Popen(
        ["zsh", "-i"],
        cwd=folder / "here",
        env={**os.environ, "ZDOTDIR": str(folder), "TERM": "dumb"},
        stdin=far,
        stdout=far,
        stderr=far,
        start_new_session=True,
    )
    os.close(far)
    try:
        for number, line in enumerate(lines, 1):
            os.write(near, f"\x15{line}\t".encode())  # Ctrl-U takes back the line before
            wait_for(lambda number=number: added.read_text().count(EACH) == number)
            with suppress(BlockingIOError):
                os.set_blocking(near, False)
                os.read(near, 65536)  # what it shows
    finally:
        shell.kill()
        shell.wait()
        os.close(near)
    return added.read_text(encoding="utf-8")


ASK = {"bash": ask_bash, "zsh": ask_zsh, "fish": ask_fish}


@pytest.mark.parametrize("shell", SHELLS)
def test_what_a_shell_completes(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    here = tmp_path / "here"
    (here / "folder").mkdir(parents=True)
    (here / "cert.pem").write_text("", encoding="ascii")
    file = tmp_path / "script"
    file.write_text(script(shell, capsys), encoding="utf-8")
    answers = ASK[shell](file, [*LINES]).split(EACH)[:-1]
    found = [sorted({word.rstrip("/") for word in answer.split()}) for answer in answers]
    assert dict(zip(LINES, found, strict=True)) == {line: sorted(words) for line, words in LINES.items()}


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert completion([]) == 0
    assert "fish" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        completion(["tcsh"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "zibai completion: error: name one shell: bash, zsh, fish\n"
