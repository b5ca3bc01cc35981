"""Puts a Python for Windows together that runs under Wine; what is there already is kept."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SERIES = f"{sys.version_info.major}.{sys.version_info.minor}"
NAME = "python" + SERIES.replace(".", "")

RUNTIME = "panda3d==1.10.16"  # the wheel with python3xx.dll, OpenSSL and the extension modules
# pip reads the markers of packages for the system that it runs on, so what only Windows needs is named here (cffi for
# gevent, colorama for pytest).
PACKAGES = ["h11", "gevent>=24.11", "cffi", "pytest>=9", "pytest-timeout", "pytest-xdist>=3.8", "colorama",
            "hypothesis", "trustme>=1.0", "watchfiles>=1.0", "websockets>=16,<18"]  # fmt: skip

DEBIAN = {"wine64": "wine64", "x86_64-w64-mingw32-gcc-win32": "gcc-mingw-w64-x86-64-win32"}
GCC, OBJDUMP = "x86_64-w64-mingw32-gcc-win32", "x86_64-w64-mingw32-objdump"

# Wine has its own C runtime; of its WMI it lacks what _wmi calls; the tests draw no windows.
UNWANTED = re.compile(r"api-ms-win-.*|_tkinter\.pyd|t[ck]l?k?86t\.dll|_wmi\.pyd")
NO_LIBRARY = ("__pycache__", "site-packages", "dist-packages", "test", "lib-dynload", "config-*", "_sysconfigdata*",
              "idlelib", "tkinter", "lib2to3", "turtledemo", "ensurepip")  # fmt: skip


PATIENCE = 600
"""Seconds for one step of the set-up. A machine on which it hangs cannot have this Python."""


class Unavailable(Exception):
    """This machine cannot have it; the text says why."""


class Wine:
    """A Windows with a Python, in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.home = self.folder / "windows"
        self.site = self.home / "Lib" / "site-packages"
        self.python = self.home / "python.exe"
        self.environment = {
            **{
                name: value for name, value in os.environ.items() if name not in {"DISPLAY", "PYTHONPATH", "PYTHONHOME"}
            },
            "WINEPREFIX": str(self.folder / "prefix"),
            "WINEARCH": "win64",
            "WINEDEBUG": "-all",
            "WINEDLLOVERRIDES": "mscoree,mshtml,winemenubuilder.exe,winedbg.exe=",
        }

    def command(self, *args: str | Path) -> list[str]:
        return [_wine("wine64"), *map(str, args)]

    def build(self) -> None:
        _install_tools()
        self.home.mkdir(parents=True, exist_ok=True)
        for made, make in (
            (self.home / f"{NAME}.dll", self._runtime),
            (self.home / "Lib" / "os.py", self._library),
            (self.folder / f"python.exe.{digest((HERE / 'python.c').read_text())}", self._program),
            (self.home / "python3.dll", self._stable_abi),
            (self.home / "bcryptprimitives.dll", self._random_numbers),
            (self.folder / "prefix" / "system.reg", self._prefix),
            (self.folder / f"packages.{digest(*PACKAGES)}", self._packages),
        ):
            if not made.exists():
                make()
        shutil.copy(HERE / "shims.py", self.home / "Lib" / "wine_shims.py")
        (self.site / "wine_shims.pth").write_text("import wine_shims\n")
        self._try()

    def _try(self) -> None:
        """Not every machine runs Wine: a container may forbid what it needs."""
        command = self.command(self.python, "-c", "import ssl, socket, multiprocessing; print('it runs')")
        done = subprocess.run(
            command, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False
        )
        if b"it runs" not in done.stdout:
            last = (done.stderr.decode(errors="replace").strip() or "without a word").splitlines()[-1]
            raise Unavailable(f"Windows' Python does not run (exit code {done.returncode}): {last}")

    def _runtime(self) -> None:
        wheels = self.folder / "wheels"
        pip("download", "--no-deps", "--dest", wheels, *_for_windows(), RUNTIME)
        libraries = self.home / "DLLs"
        libraries.mkdir(exist_ok=True)
        [wheel] = wheels.glob("panda3d-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                file = name.rpartition("/")[2]
                if name.startswith("deploy_libs/") and file and not UNWANTED.fullmatch(file):
                    beside = file.startswith(("VCRUNTIME", "python3"))
                    ((self.home if beside else libraries) / file).write_bytes(archive.read(name))

    def _library(self) -> None:
        source = Path(sysconfig.get_path("stdlib"))
        if not (source / "asyncio" / "windows_events.py").exists():
            raise Unavailable(f"the standard library in {source} has no modules of Windows")
        library = self.home / "Lib"
        shutil.copytree(source, library, ignore=shutil.ignore_patterns(*NO_LIBRARY), dirs_exist_ok=True)
        self.site.mkdir(exist_ok=True)
        # A later runtime of the same series calls this one with the class.
        metadata = library / "importlib" / "metadata" / "__init__.py"
        text = metadata.read_text(encoding="utf-8")
        pattern = r"(?<!@classmethod)\n    def invalidate_caches\(cls\)"
        metadata.write_text(re.sub(pattern, r"\n    @classmethod\g<0>", text), encoding="utf-8")

    def _program(self) -> None:
        define = f'-DPYTHON_DLL=L"{NAME}.dll"'
        run(GCC, "-O2", "-s", "-municode", "-mconsole", define, "-o", self.python, HERE / "python.c")
        (self.folder / f"python.exe.{digest((HERE / 'python.c').read_text())}").touch()

    def _stable_abi(self) -> None:
        """python3.dll, which passes on what is asked of it to the DLL of the series."""
        listing = run(OBJDUMP, "-p", self.home / f"{NAME}.dll")
        names = re.findall(r"^\s*\[ *\d+\].*?\b(_?Py[A-Za-z0-9_]*)$", listing, re.MULTILINE)
        work = self.folder / "python3"
        work.mkdir(exist_ok=True)
        (work / "python3.def").write_text("EXPORTS\n" + "".join(f"{name}={NAME}.{name}\n" for name in names))
        (work / "python3.c").write_text("int __stdcall DllMainCRTStartup(void *a, unsigned b, void *c) { return 1; }\n")
        run(
            GCC, "-s", "-shared", "-nostdlib", "-o", self.home / "python3.dll", work / "python3.c", work / "python3.def"
        )

    def _random_numbers(self) -> None:
        """bcryptprimitives.dll, from which packages in Rust take random numbers; Wine has it from version 9 on."""
        library = self.home / "bcryptprimitives.dll"
        run(GCC, "-s", "-shared", "-nostdlib", "-o", library, HERE / "random.c", "-ladvapi32")

    def _prefix(self) -> None:
        for args in (
            ("wineboot.exe", "--init"),
            ("reg.exe", "add", r"HKCU\Software\Wine", "/v", "Version", "/d", "win10", "/f"),  # Debian's default is 7
        ):
            subprocess.run(self.command(*args), env=self.environment, capture_output=True, timeout=PATIENCE, check=True)
        server = [_wine("wineserver64", "wineserver"), "--wait"]
        subprocess.run(server, env=self.environment, timeout=PATIENCE, check=True)

    def _packages(self) -> None:
        pip("install", "--target", self.site, "--upgrade", "--no-compile", *_for_windows(), *PACKAGES)
        (self.folder / f"packages.{digest(*PACKAGES)}").touch()


def _install_tools() -> None:
    if sys.platform != "linux":
        raise Unavailable("Wine is looked for on Linux only")
    missing = [package for tool, package in DEBIAN.items() if not _find(tool)]
    if not missing:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Unavailable(f"{', '.join(missing)} must be installed, which only root can do, with apt-get")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
        done = subprocess.run(
            ["apt-get", "-qq", *command],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if done.returncode:
            raise Unavailable(f"apt-get {command[0]} failed: {(done.stderr.strip() or 'no reason').splitlines()[-1]}")


def _find(*names: str) -> str:
    """Debian keeps the programs of Wine out of the way."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/lib/wine"])
    return next((found for name in names if (found := shutil.which(name, path=path))), "")


def _wine(*names: str) -> str:
    found = _find(*names)
    if not found:
        raise Unavailable(f"there is no {names[0]}")
    return found


def digest(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def _for_windows() -> list[str]:
    abis = [f"--abi={abi}" for abi in (NAME.replace("python", "cp"), "abi3", "none")]
    target = ["--only-binary=:all:", "--platform=win_amd64", f"--python-version={SERIES}", "--implementation=cp"]
    return [*target, *abis]


def pip(*args: str | Path) -> None:
    try:
        run(sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *args)
    except subprocess.CalledProcessError:
        raise Unavailable(f"pip cannot get {args[-1]} for Python {SERIES} on Windows") from None


def run(*command: str | Path) -> str:
    return subprocess.run([*map(str, command)], stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=True).stdout
