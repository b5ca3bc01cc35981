"""The Dockerfile and the manifest of docs/deployment.md as their own tools would check them, and a read-only root.

There is no Docker, no hadolint and no kubeconform here. What these check is written out, as far as the files go.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from test_deployment import file, manifest
from test_e2e_proxies import free_ports

from support import APPS, DEADLINE, ROOT, Client, get, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it is about POSIX")

# --- the Dockerfile, by the rules of hadolint --------------------------------------------------------

KEYWORDS = {"FROM", "RUN", "WORKDIR", "COPY", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "CMD"}  # no ADD (DL3020)


def instructions() -> list[tuple[str, str]]:
    lines = file("Dockerfile").replace("\\\n", " ").splitlines()
    return [(keyword, rest) for keyword, _, rest in (line.partition(" ") for line in lines)]


def test_the_rules_of_dockerfiles() -> None:
    found = instructions()
    assert {keyword for keyword, _ in found} == KEYWORDS
    for keyword, rest in found:
        match keyword:
            case "FROM":
                image, _, tag = rest.partition(":")
                assert image
                assert re.fullmatch(r"[0-9.]+(-slim)?", tag)  # DL3006, DL3007: a tag, and not "latest"
            case "RUN":
                words = shlex.split(rest)
                assert not {"sudo", "cd", "apt-get", "|"} & {*words}  # DL3004, DL3003, DL3008, DL4006
                if "pip" in words:
                    assert "--no-cache-dir" in words  # DL3042
                    assert "-r" in words  # DL3013: versions come from a file
            case "WORKDIR":
                assert os.path.isabs(rest)  # DL3000
            case "CMD":
                assert json.loads(rest)  # DL3025: brackets
            case "HEALTHCHECK":
                assert json.loads(rest.partition("CMD ")[2])
    order = [keyword for keyword, _ in found]
    assert order.count("CMD") == order.count("HEALTHCHECK") == 1  # DL4003, DL3012


def test_nothing_of_the_image_runs_as_root() -> None:
    found = instructions()
    users = [rest for keyword, rest in found if keyword == "USER"]
    assert users
    assert int(users[-1]) > 0  # DL3002; and a number, or Kubernetes cannot tell
    assert f"--uid {users[-1]} " in dict(found[::-1])["RUN"]
    after = [keyword for keyword, _ in found[found.index(("USER", users[-1])) :]]
    assert not {"RUN", "COPY"} & {*after}


def test_what_changes_seldom_is_built_first() -> None:
    """Or each change of the code would install all packages again."""
    steps = [rest for keyword, rest in instructions() if keyword in ("COPY", "RUN")]
    packages = next(place for place, rest in enumerate(steps) if "pip install" in rest)
    assert steps.index("requirements.txt .") < packages < steps.index(". .")


# --- the manifest, by its schema ----------------------------------------------------------------------

QUANTITY = re.compile(r"\d+(Mi|Gi|m)?")
AMOUNTS = {"cpu": QUANTITY, "memory": QUANTITY}
PROBE = {"httpGet": {"path": str, "port": str}, "periodSeconds": int, "failureThreshold": int}
SCHEMA = {
    "Deployment": {
        "apiVersion": "apps/v1",
        "kind": str,
        "metadata": {"name": str},
        "spec": {
            "replicas": int,
            "selector": {"matchLabels": {"app": str}},
            "template": {
                "metadata": {"labels": {"app": str}},
                "spec": {
                    "terminationGracePeriodSeconds": int,
                    "automountServiceAccountToken": bool,
                    "securityContext": {"runAsNonRoot": bool, "seccompProfile": {"type": str}},
                    "containers": [
                        {
                            "name": str,
                            "image": str,
                            "command": [str],
                            "args": [str],
                            "ports": [{"name": str, "containerPort": int}],
                            "resources": {"requests": AMOUNTS, "limits": AMOUNTS},
                            "securityContext": {
                                "allowPrivilegeEscalation": bool,
                                "readOnlyRootFilesystem": bool,
                                "capabilities": {"drop": [str]},
                            },
                            "volumeMounts": [{"name": str, "mountPath": str}],
                            **dict.fromkeys(("startupProbe", "readinessProbe", "livenessProbe"), PROBE),
                        }
                    ],
                    "volumes": [{"name": str, "emptyDir": {"sizeLimit": QUANTITY}}],
                },
            },
        },
    },
    "Service": {
        "apiVersion": "v1",
        "kind": str,
        "metadata": {"name": str},
        "spec": {"selector": {"app": str}, "ports": [{"name": str, "port": int, "targetPort": str}]},
    },
}  # fmt: skip


def check(value: Any, schema: Any, where: str) -> None:
    """The server of the API refuses a field that it does not know, and a value of another type."""
    match schema:
        case dict():
            assert isinstance(value, dict), where
            assert value.keys() <= schema.keys(), where
            for key, each in value.items():
                check(each, schema[key], f"{where}.{key}")
        case list():
            assert isinstance(value, list), where
            for each in value:
                check(each, schema[0], f"{where}[]")
        case re.Pattern():
            assert isinstance(value, str), where
            assert schema.fullmatch(value), where
        case str():
            assert value == schema, where
        case _:
            assert type(value) is schema, where


def test_the_schema_of_the_manifest() -> None:
    for document in yaml.safe_load_all(file("shop.yaml")):
        check(document, SCHEMA[document["kind"]], document["kind"])
        assert re.fullmatch(r"[a-z0-9-]{1,63}", document["metadata"]["name"])


def test_the_manifest_is_restricted() -> None:
    """By the standard "restricted" of Pod Security, and a bit more."""
    pod, container, _ = manifest()
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
    }  # fmt: skip
    assert pod["automountServiceAccountToken"] is False
    assert not container["image"].endswith(":latest")
    mounted = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert mounted == {"tmp": "/tmp"}
    assert {each["name"] for each in pod["volumes"]} == mounted.keys()
    names = {port["name"] for port in container["ports"]}
    assert {container[f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "readiness", "liveness")} <= names


def mebibytes(quantity: str) -> int:
    return int(quantity.removesuffix("Mi"))


def test_what_clients_can_claim_fits() -> None:
    pod, container, options = manifest()
    limits = container["resources"]["limits"]
    assert int(limits["cpu"]) == options.processes
    claimed = options.processes * (options.max_unsent_memory + options.max_bodies_memory) >> 20
    assert claimed <= mebibytes(limits["memory"]) / 2  # the other half is the application's
    (volume,) = pod["volumes"]
    assert options.max_bodies_disk > 0
    assert options.processes * options.max_bodies_disk >> 20 < mebibytes(volume["emptyDir"]["sizeLimit"])


# --- a root that cannot be written --------------------------------------------------------------------

SCRIPT = """
set -e
mount --bind "$1" /mnt
for place in / /mnt $(awk '$2 ~ "^/(tmp|var|dev/shm|run|home|root|work)" {print $2}' /proc/mounts); do
    mount -o remount,bind,ro "$place"
done
unset TMPDIR
[ "$2" = "read-only" ] || { mount -t tmpfs tmpfs /mnt/tmp; export TMPDIR=/mnt/tmp; }
cd /mnt
shift 2
exec setpriv --bounding-set=-all --no-new-privs env HOME=/nonexistent "$@"
"""


def can_unshare() -> bool:
    if any(shutil.which(name) is None for name in ("unshare", "setpriv", "mount")):
        return False
    done = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False
    )
    return not done.returncode


def within(folder: Path, kind: str, command: list[str]) -> list[str]:
    """A command in such a file system, which begins in ``folder``."""
    return ["unshare", "--mount", "sh", "-c", SCRIPT, "sh", str(folder), kind, *command]


@pytest.fixture(params=["temporary directory", "read-only"])
def read_only(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, int, int, subprocess.Popen[str]]]:
    """What is writable, a server in such a file system, its port and that of its probes."""
    if not can_unshare():
        pytest.skip("this machine makes no mount namespace")
    (tmp_path / "shop.py").write_text("from plain import app\n")
    (tmp_path / "tmp").mkdir()  # not /tmp itself, where this Python may lie
    ports = free_ports(["shop", "health"])
    command = [
        sys.executable, "-m", "zibai", "shop:app", "-p", "2", "--listen", f"127.0.0.1:{ports['shop']}",
        "--health-listen", f"127.0.0.1:{ports['health']}",
    ]  # fmt: skip
    process = subprocess.Popen(
        within(tmp_path, request.param, command),
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{APPS}"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield request.param, ports["shop"], ports["health"], process
    finally:
        process.kill()
        process.wait()


@pytest.mark.daily("[read-only]")
def test_a_root_that_is_read_only(read_only: tuple[str, int, int, subprocess.Popen[str]]) -> None:
    where, port, probes, process = read_only

    def is_ready() -> bool:
        assert process.poll() is None, process.communicate()
        try:
            return get(probes, "/readyz").status == 200
        except OSError:
            return False

    wait_for(is_ready)
    assert get(port, "/hello").status == 200
    body = bytes(2_000_000)
    with Client(port) as client:
        client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        response = client.read()
    assert (response.status, response.body == body) == ((507, False) if where == "read-only" else (200, True))
    process.terminate()
    _, log = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    assert "Traceback" not in log
    assert ("no file for zibai ps" in log) == (where == "read-only")


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        ("check shop:app --listen 127.0.0.1:0", 0, "ok       application  'shop:app' is imported in "),
        ("check shop:app --listen 127.0.0.1:0 --tls-dev", 2, "error    extras       --tls-dev needs a directory for"),
        ("shop:app --listen 127.0.0.1:0 --tls-dev", 2, "zibai: error: --tls-dev needs a directory for temporary files"),
        ("ps", 1, "zibai ps: error: no server is found in any directory of this user"),
        ("migrate gunicorn shop:app", 0, 'app = "shop:app"'),
    ],
)
def test_commands_in_a_root_that_is_read_only(tmp_path: Path, line: str, code: int, told: str) -> None:
    if not can_unshare():
        pytest.skip("this machine makes no mount namespace")
    if "--tls-dev" in line:
        pytest.importorskip("trustme")
    (tmp_path / "shop.py").write_text("print('noise')\nfrom plain import app\n")
    done = subprocess.run(
        within(tmp_path, "read-only", [sys.executable, "-m", "zibai", *line.split()]),
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{APPS}"},
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,  # a check starts another process
        check=False,
    )
    assert (done.returncode, told in done.stdout + done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
