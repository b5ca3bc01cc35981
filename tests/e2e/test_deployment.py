"""Each file of docs/deployment.md does what the page says: it is tried with the real program, or its commands are run.

Nothing is changed in them but ports, paths and the name of the command. There is no Docker and no Kubernetes here: of
those files the commands are run, the probes asked, and the sums done.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from test_e2e_drain import health, says_close
from test_e2e_proxies import free_ports, running
from test_readme import SNIPPETS

from zibai import Options, parse_args
from zibai.cli.arguments import make_parser
from zibai.supervise.record import KILL_AFTER

from support import APPS, DEADLINE, ROOT, ZIBAI, Client, Server, environment, get, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it is about POSIX")

OF_OTHERS = {
    *(
        "--help",
        "--help-all",
        "--version",
        "--json",
        "--explain",
        "--strict",
        "--wait",
    ),  # of zibai as well, but no options of the server
    *("--list", "--quick", "--readme", "--collect-only", "--workloads"),  # of the benchmark, of pytest
    *("--cacert", "--proxy-header"),  # of curl, of gcloud
    *("--path", "--port"),  # of start_server
    *("--frames", "--seconds", "--seed"),  # of the fuzzer
    *("--output", "--pid"),  # of zibai profile
    *("--debug", "--timeout"),  # of Flask, and of gunicorn
    *("--init", "--interval", "--start-period", "--stop-timeout", "--timeout", "--cpus", "--ulimit"),  # of Docker
    *(
        "--no-cache-dir",
        "--no-create-home",
        "--now",
        "--path",
        "--port",
        "--system",
        "--uid",
    ),  # of pip, systemctl, start_server, useradd
}


def file(name: str) -> str:
    (found,) = [snippet.text for snippet in SNIPPETS if snippet.title == name]
    return found


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with the application of the page."""
    (tmp_path / "shop.py").write_text("from plain import app\n")
    return tmp_path


def serve(shop: Path, command: list[str], *more: str) -> Server:
    """``zibai ...`` as it stands in a file, with ports that are free."""
    assert command[0].rpartition("/")[2] == "zibai"
    arguments = [re.sub(r"^(127\.0\.0\.1)?:80\d\d$", "127.0.0.1:0", each) for each in command[1:]]
    return Server(
        None, *arguments, *more, listen=None, command=ZIBAI, cwd=shop, env={"PYTHONPATH": f"{ROOT}{os.pathsep}{APPS}"}
    )


def options_of(command: list[str]) -> Options:
    return parse_args(command[1:])


# --- systemd ----------------------------------------------------------------------------------------


def unit(name: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", file(name), re.MULTILINE))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    command = tmp_path / "zibai"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    units = [tmp_path / "shop.service", tmp_path / "shop.socket"]
    for path in units:
        path.write_text(file(path.name).replace("/srv/shop/.venv/bin/zibai", str(command)))
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, units)], capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if str(tmp_path) in line or "shop" in line]
    assert (done.returncode, complaints) == (0, [])


def test_the_command_of_the_unit_serves_reloads_and_ends_in_time(shop: Path) -> None:
    service = unit("shop.service")
    command = shlex.split(service["ExecStart"].replace("/run/shop", str(shop)))
    options = options_of(command)
    assert float(service["TimeoutStopSec"]) > options.drain + options.graceful_exit_timeout + KILL_AFTER
    with serve(shop, command, "--listen", "127.0.0.1:0", "-p", "1") as server:
        first = get(server.port, "/pid").body
        reload = shlex.split(service["ExecReload"].replace("$MAINPID", str(server.pid)))
        subprocess.run(reload, check=True)
        wait_for(lambda: get(server.port, "/pid").body != first)
        done = subprocess.run(
            [*ZIBAI, "ps", "--control", f"{shop}/control"],
            env=environment(), capture_output=True, text=True, timeout=DEADLINE, check=False,
        )  # fmt: skip
        assert "shop:app" in done.stdout
        assert server.stop() == 0


# --- Docker -----------------------------------------------------------------------------------------


def test_the_commands_of_the_dockerfile(shop: Path) -> None:
    text = file("Dockerfile").replace("\\\n", "")
    check, command = (json.loads(found) for found in re.findall(r"CMD (\[.*\])$", text, re.MULTILINE))
    options = options_of(command)
    assert options.drain + options.graceful_exit_timeout + KILL_AFTER < 10, "what docker stop waits"
    with serve(shop, command) as server:
        assert get(server.port, "/hello").status == 200
        check = [part.replace(":8001", f":{health(server)}") for part in check]
        assert check[0] == "python"

        def is_healthy() -> bool:
            return not subprocess.run([sys.executable, *check[1:]], stderr=subprocess.DEVNULL, check=False).returncode

        wait_for(is_healthy)
        (name,) = re.findall(r"^STOPSIGNAL (\w+)$", text, re.MULTILINE)
        server.signal(getattr(signal, name))
        assert server.wait() == 0
        assert not is_healthy()


# --- Kubernetes -------------------------------------------------------------------------------------


def manifest() -> tuple[dict[str, Any], dict[str, Any], Options]:
    """The template of the pod, its container, and the options of the command."""
    deployment, service = yaml.safe_load_all(file("shop.yaml"))
    pod = deployment["spec"]["template"]
    assert (deployment["kind"], service["kind"]) == ("Deployment", "Service")
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"]
    (container,) = pod["spec"]["containers"]
    return pod["spec"], container, options_of([*container["command"], *container["args"]])


def test_the_sums_of_the_manifest() -> None:
    pod, container, options = manifest()
    assert pod["terminationGracePeriodSeconds"] > options.drain + options.graceful_exit_timeout + KILL_AFTER
    readiness = container["readinessProbe"]
    assert options.drain > readiness["periodSeconds"] * readiness["failureThreshold"]
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= options.boot_timeout
    ports = {port["name"]: f":{port['containerPort']}" for port in container["ports"]}
    assert (options.listen, options.health_listen) == ([ports["http"]], ports["health"])
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    moments = [int(each) for each in re.findall(r"^ *(\d+) s   ", page, re.MULTILINE)]
    end = options.drain + options.graceful_exit_timeout
    assert moments == [0, options.drain, end, end + KILL_AFTER, pod["terminationGracePeriodSeconds"]]


def test_the_pod_is_ready_alive_and_drained(shop: Path) -> None:
    _, container, _ = manifest()
    probes = [container[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert {probe["port"] for probe in probes} == {"health"}
    with serve(shop, [*container["command"], *container["args"]]) as server:
        for probe in probes:
            wait_for(lambda path=probe["path"]: get(health(server), path).status == 200)
        server.signal(signal.SIGTERM)
        startup, readiness, liveness = (lambda path=probe["path"]: get(health(server), path).status for probe in probes)
        wait_for(lambda: readiness() == 503)
        assert (startup(), liveness()) == (503, 200)
        wait_for(lambda: says_close(server.port))
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


# --- nginx ------------------------------------------------------------------------------------------

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@contextmanager
def nginx(folder: Path) -> Iterator[int]:
    """The port of an nginx with the file of the page, before ``shop.sock`` in ``folder``."""
    assert NGINX is not None
    port = free_ports(["nginx"])["nginx"]
    site = file("shop.conf").replace("/run/shop.sock", f"{folder}/shop.sock")
    assert "listen 80;" in site
    (folder / "shop.conf").write_text(site.replace("listen 80;", f"listen 127.0.0.1:{port};"))
    places = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;\n"
        f"events {{}}\nhttp {{ access_log off; {places} include {folder}/shop.conf; }}\n"
    )
    with running([NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"], folder, port):
        yield port


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_nginx_in_front(shop: Path) -> None:
    listen = f"unix:{shop}/shop.sock"
    with serve(shop, ["zibai", "shop:app", "-p", "1", "--listen", listen, "--drain", "3600"]) as server:
        with nginx(shop) as port, Client(port) as client:
            assert client.get("/hello").body == b"Hello World!"
            body = b"x" * 200_000
            client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            assert client.read().body == body
            forged = ["X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: https", "Forwarded: for=6.6.6.6"]
            forged += [f"X-Forwarded-{name}: evil" for name in ("Host", "Port", "Prefix")]
            answer = json.loads(client.get("/environ", *forged).body)
            fields = {name: value for name, value in answer.items() if "FORWARDED" in name}
            assert "6.6.6.6" not in fields.values()
            assert "evil" not in json.dumps(answer)
            assert answer["wsgi.url_scheme"] == "http"

            # What happens behind it is not seen in front.
            first = client.get("/pid").body
            server.signal(signal.SIGHUP)
            wait_for(lambda: client.get("/pid").body != first)
            server.signal(signal.SIGTERM)
            wait_for(lambda: says_close_at(shop / "shop.sock"))
            assert all(client.get("/hello").status == 200 for _ in range(20))
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def says_close_at(path: Path) -> bool:
    with Client(path) as client:
        return client.get("/hello").headers["Connection"] == "close"


# --- flags ------------------------------------------------------------------------------------------


def test_every_flag_that_is_written_about_is_there() -> None:
    known = set(make_parser()._option_string_actions)
    flags: dict[str, set[str]] = {}
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        if path.stem != "migrating":
            found = re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", path.read_text(encoding="utf-8"))
            flags.setdefault(path.name, set()).update(found)
    missing = {name: found - known - OF_OTHERS for name, found in flags.items()}
    assert not any(missing.values()), missing


def rows(section: str) -> list[list[str]]:
    """The cells of the tables of a server on the page about migrating."""
    page = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    cells = [line.strip("| ").split(" |") for line in found.splitlines() if line.startswith("| `")]
    return [row for row in cells if not row[0].startswith("`SIG")]


FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9_-]*")


@pytest.mark.parametrize("section", ["gunicorn", "waitress", "uvicorn", "granian", "Starman", "uFork"])
def test_what_to_migrate_to_is_there(section: str) -> None:
    known = set(make_parser()._option_string_actions)
    named = {flag for row in rows(section) for cell in row[1:2] for flag in FLAG.findall(cell)}
    assert named <= known, named - known
    assert named


@pytest.mark.parametrize("name", ["gunicorn", "waitress", "uvicorn", "granian"])
def test_all_of_their_flags_are_on_the_page(name: str) -> None:
    program = shutil.which("waitress-serve" if name == "waitress" else name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    done = subprocess.run([program, "--help"], capture_output=True, text=True, timeout=DEADLINE, check=False)
    text = re.sub(r"--\[no-\](\w[\w-]*)", r"--\1 --no-\1", done.stdout)
    theirs = set(FLAG.findall("\n".join(line for line in text.splitlines() if re.match(r"\s{0,6}-", line))))
    ours = {flag for row in rows(name) for flag in FLAG.findall(row[0])}
    assert theirs - ours - {"--help", "--version"} == set()
    assert ours - theirs == set()
