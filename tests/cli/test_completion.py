"""zibai completion: in each shell that is installed here."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from zibai.cli.arguments import COMMANDS, STEERING, make_parser
from zibai.cli.completion import FLAGS, WORDS, completion

from support import run

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


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("zibai --max-wor", ["--max-workers", "--max-worker-memory", "--max-worker-descriptors"]),
        ("zibai a:b --log-level wa", ["warning"]),
        ("zibai a:b --certfile cert", ["cert.pem"]),
        ("zibai a:b --chdir ", ["folder"]),
        ("zibai mi", ["migrate"]),
        ("zibai a:b --workers ", []),
        ("zibai rel", ["reload"]),
        ("zibai st", ["stop"]),
        ("zibai reload --w", ["--wait"]),
        ("zibai stop --n", ["--now"]),
        ("zibai ps --j", ["--json"]),
        ("zibai dump --max-wor", []),
        ("zibai completion f", ["fish"]),
        ("zibai completion ", ["bash", "zsh", "fish"]),
        ("zibai migrate gu", ["gunicorn"]),
        ("zibai dump --control ", []),
        ("zibai check --st", ["--statsd", "--statsd-prefix", "--stream-request-body", "--strict"]),
        ("zibai check --max-workers 3 --ex", ["--explain"]),
        ("zibai check --max-worker-m", ["--max-worker-memory"]),
        ("zibai a:b --st", ["--statsd", "--statsd-prefix", "--stream-request-body"]),
    ],
)
def test_bash(words: str, completed: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("", encoding="ascii")
    (tmp_path / "folder").mkdir()
    line = " ".join(f"'{word}'" for word in words.split(" "))
    last = len(words.split(" ")) - 1
    end = f'\nCOMP_WORDS=({line})\nCOMP_CWORD={last}\n_zibai\nprintf "%s\\n" "${{COMPREPLY[@]}}"\n'
    done = subprocess.run(
        ["bash", "-c", script("bash", capsys) + end],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert done.stderr == ""
    assert sorted(done.stdout.split()) == sorted(completed)


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert completion([]) == 0
    assert "fish" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        completion(["tcsh"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "zibai completion: error: name one shell: bash, zsh, fish\n"
