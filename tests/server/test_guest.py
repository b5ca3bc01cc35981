"""``zibai.run()`` and ``--interactive``: a person at a pseudo-terminal, and clients."""

from __future__ import annotations

import io
import signal
import sys
from typing import Any

import pytest

from zibai.errors import UsageError
from zibai.server import guest as repl
from zibai.supervise.prompt import Prompt

from person import CTRL_C, CTRL_D, Person
from support import ZIBAI, Client, Gate, alive, get, run, wait_for

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX's")

APP = """\
import os, signal, sys, termios, threading, zibai
word = "one"
def app(environ, respond): respond("200 OK", []); return [f"{word} {os.getpid()}".encode()]

settings = termios.tcgetattr(0); handlers = [signal.getsignal(n) for n in (1, 2, 15)]
fds = len(os.listdir("/dev/fd"))
"""
LEFT = (
    "print('left', threading.active_count(), len(os.listdir('/dev/fd')) - fds, termios.tcgetattr(0) == settings, "
    "[signal.getsignal(n) for n in (1, 2, 15)] == handlers); "
    "print([os.readlink(f'/proc/self/fd/{n}') for n in range(40) if os.path.exists(f'/proc/self/fd/{n}')])"
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def at_prompt(person: Person) -> None:
    person.see(">>> ")
    for line in APP.splitlines():
        person.type(line)


def serving(person: Person, workers: int) -> int:
    """The port, once all are ready."""
    port = int(person.see(r"listening on http://127.0.0.1:(\d+)\s"))
    for _ in range(max(workers, 1)):
        person.see("worker ready: threads")
    return port


@pytest.mark.daily("basic")
@pytest.mark.parametrize("processes", [0, 2])
@pytest.mark.parametrize("prompt", ["basic", "new"])
def test_an_application_of_the_prompt_is_served_until_ctrl_c(processes: int, prompt: str) -> None:
    if prompt == "new" and sys.version_info < (3, 13):
        pytest.skip("there is one prompt only")
    env = {"TERM": "xterm", "PYTHON_BASIC_REPL": ""} if prompt == "new" else {}
    with Person("-i", "-q", env=env) as person:
        at_prompt(person)
        for word in ("one", "two"):
            person.type(
                f"word = '{word}'; zibai.run(app, listen='127.0.0.1:0', processes={processes}); print('re' 'turned')"
            )
            port = serving(person, processes)
            found, pid = get(port).body.decode().split()
            assert found == word, "it is served as it is"
            workers = person.workers()
            assert len(workers) == processes
            assert int(pid) in (workers or [person.process.pid])
            person.press(CTRL_C)
            person.see("returned")
            assert not any(map(alive, workers))
        person.type(LEFT)
        assert person.see(r"left (\d.*)\n") == "1 0 True True"
        person.type("4 * 111")
        person.see("444")
        assert "Traceback" not in person.screen
        assert person.leave() == 0


def test_ctrl_c_does_not_wait_for_a_request_and_never_ends_the_prompt() -> None:
    with Gate() as gate, Person("-i", "-q") as person:
        person.see(">>> ")
        person.type("import plain, zibai")
        person.type("zibai.run(plain.gated, listen='127.0.0.1:0'); print('re' 'turned')")
        port = serving(person, 0)
        with Client(port) as client:
            client.send(f"GET /gated?{gate.port} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            request = gate.arrival()
            person.press(CTRL_C)
            person.see("returned")
            request.close()
        person.type("4 * 111")
        person.see("444")
        assert person.leave() == 0


def test_what_cannot_be_forked_is_served_by_the_process_itself() -> None:
    with Person("-i", "-q") as person:
        at_prompt(person)
        person.type("end = threading.Event(); t = threading.Thread(target=end.wait); t.start()")
        person.type("zibai.run(app, listen='127.0.0.1:0', processes=2); print('re' 'turned')")
        person.see("a process that has threads cannot be forked: this process serves by itself")
        port = serving(person, 0)
        assert get(port).body.decode().split()[1] == str(person.process.pid)
        person.press(CTRL_C)
        person.see("returned")
        person.type("zibai.run(app, listen='127.0.0.1:0', capture_output=True)")
        person.see("--capture-output needs worker processes, and a process that has threads cannot be forked; name the")
        person.type("end.set(); t.join()")
        assert person.leave() == 0


def test_a_named_application_and_what_workers_print() -> None:
    with Person("-i", "-q") as person:
        at_prompt(person)
        person.type("zibai.run('plain:hello', listen='127.0.0.1:0', processes=1, no_gevent=True); print('re' 'turned')")
        assert get(serving(person, 1)).status == 200
        person.press(CTRL_C)
        person.see("returned")
        person.type(
            "def app(environ, start_response):\n    print('from app')\n    start_response('200 OK', [])\n"
            "    return []\n"
        )
        person.type("zibai.run(app, listen='127.0.0.1:0', processes=1, capture_output=True); print('re' 'turned')")
        get(serving(person, 1))
        (worker,) = person.workers()
        person.see(rf"\[{worker}\] \| from app")
        person.press(CTRL_C)
        person.see("returned")
        person.type("zibai.run('nothing:app', listen='127.0.0.1:0', processes=1)")
        person.see("LoadError: no module named 'nothing'")
        assert person.leave() == 0


@pytest.mark.parametrize(
    ("app", "options", "words"),
    [
        (3, {}, "3 cannot be called"),
        (len, {"listen": ["nowhere"]}, "'nowhere' is no address"),
        (len, {"processes": -1}, "--processes must be at least 0"),
        (len, {"interactive": True}, "--interactive needs a terminal"),
    ],
)
def test_wrong_usage_is_raised(app: Any, options: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zibai.telemetry.setup.configure", lambda *args: None)
    monkeypatch.setattr("sys.stdin", None)
    monkeypatch.setattr(repl, "_obstacle_to_fork", lambda: "")
    with pytest.raises(UsageError, match=words):
        repl.run(app, **options)


@pytest.mark.parametrize(("system", "words"), [("win32", "Windows cannot fork"), ("linux", "")])
def test_an_obstacle_to_fork(monkeypatch: pytest.MonkeyPatch, system: str, words: str) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr("threading.active_count", lambda: 1)
    assert words in repl._obstacle_to_fork()
    monkeypatch.setattr(repl, "is_patched", lambda: True)
    assert repl._obstacle_to_fork()


# ------------------------------------------------------------------------------------------- --interactive


INTERACTIVE = (*ZIBAI[1:], "plain:hello", "-l", "127.0.0.1:0", "--interactive", "--no-gevent")


def test_a_prompt_while_it_serves() -> None:
    with Person(*INTERACTIVE, "-p", "2") as person:
        port = serving(person, 2)
        old = person.workers()
        assert len(old) == 2
        person.interrupt()
        person.type("supervisor")
        person.see(rf"<supervisor {person.process.pid}, 2 workers>")
        person.press("half a line")
        person.see("half a line")
        person.interrupt()
        person.type("workers")
        for _ in old:
            assert int(person.see(r" (\d+)    ready")) in old, "Ctrl-C is for the prompt and not for the workers"
        person.type("workers(3)")
        person.see("worker ready")
        wait_for(lambda: len(person.workers()) == 3)
        person.type("reload()")
        wait_for(lambda: len(person.workers()) == 3 and not set(old) & set(person.workers()))
        assert get(port).status == 200
        person.type("if True:\n    print('in' 'dented')\n")
        person.see("indented")
        person.type("1/0")
        person.see("ZeroDivisionError")
        person.type("stop()")
        assert person.process.wait(20) == 0
    assert "starting another" not in person.screen, "Ctrl-C has ended no worker"
    assert "Exception" not in person.screen.replace("ZeroDivisionError", "")


@pytest.mark.daily("ctrl-d", "SIGTERM")
@pytest.mark.parametrize("how", ["ctrl-d", "SIGTERM", "exit()", "stop('quit')"])
def test_ways_to_end_a_prompt(how: str) -> None:
    with Person(*INTERACTIVE) as person:
        serving(person, 1)
        person.type("print('he' 're')")
        person.see("here")
        person.see("zibai>> ")
        person.workers()
        match how:
            case "ctrl-d":
                person.press(CTRL_D)
            case "SIGTERM":
                person.process.send_signal(signal.SIGTERM)
            case _:
                person.type(how)
        assert person.process.wait(20) == 0
        assert "Traceback" not in person.screen


@pytest.mark.parametrize("over", [False, True])
def test_input_that_fails_because_two_signals_came_together_was_interrupted(
    monkeypatch: pytest.MonkeyPatch, over: bool
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("sys.stdout", Terminal())
    prompt: Any = Prompt()
    prompt._busy.acquire()

    def interrupted(text: str) -> str:
        prompt._over = over
        raise SystemError("returned a result with an exception set") from KeyboardInterrupt()

    monkeypatch.setattr("builtins.input", interrupted)
    with pytest.raises(EOFError if over else KeyboardInterrupt):
        prompt.raw_input()


def test_ctrl_c_at_a_prompt_together_with_another_signal() -> None:
    """It has to come while the prompt waits for a key, so it is tried more than once."""
    with Person(*INTERACTIVE) as person:
        serving(person, 1)
        person.type("print('he' 're')")
        person.see("here")
        for _ in range(3):
            person.see("zibai>> ")
            person.interrupt(beside="SIGUSR1")
        person.type("stop()")
        assert person.process.wait(20) == 0
        assert "Traceback" not in person.screen


def test_an_application_that_cannot_be_loaded_ends_the_prompt() -> None:
    with Person(*ZIBAI[1:], "nothing:app", "-l", "127.0.0.1:0", "--interactive") as person:
        person.see("zibai: error: no module named 'nothing'")
        assert person.process.wait(20) == 3


def test_a_prompt_needs_a_terminal() -> None:
    done = run("plain:hello", "--interactive", "--listen", "127.0.0.1:0")
    assert (done.returncode, done.stderr) == (2, "zibai: error: --interactive needs a terminal to type at\n")


def test_a_prompt_beside_an_application_of_the_prompt() -> None:
    with Person("-i", "-q") as person:
        at_prompt(person)
        person.type("zibai.run(app, listen='127.0.0.1:0', processes=2, interactive=True); print('re' 'turned')")
        port = serving(person, 2)
        assert get(port).body.decode().startswith("one ")
        old = person.workers()
        person.type("import time; reload(); time.sleep(2.5); print('sle' 'pt')")
        person.see("cannot start a worker: a statement runs at the prompt")
        person.see("slept")
        wait_for(lambda: len(person.workers()) == 2 and not set(old) & set(person.workers()))
        person.type("stop()")
        person.see("returned")
        person.type(LEFT)
        assert person.see(r"left (\d.*)\n") == "1 0 True True"
        assert person.leave() == 0
