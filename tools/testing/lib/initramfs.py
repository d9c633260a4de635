# SPDX-License-Identifier: GPL-2.0
"""The guest's file system: busybox, the disk tools, and an init of our own."""

import io
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from lib import cache, progress, repository, stub
from lib.archive import Archive
from lib.failure import Failure

# The host's programs that the guest has besides busybox, with their libraries.
STUBBED = ("fio",)
PROGRAMS = ("fio", "mkfs.xfs", "mkfs.ext4", "e2fsck", "dmsetup")
# Where the host keeps them; sbin is not in an ordinary user's PATH.
SEARCH = "/usr/bin:/usr/sbin:/bin:/sbin"
BUSYBOX = Path("/usr/bin/busybox")
# File systems that are kept: other checkouts may use other versions.
KEPT = 3
FOLDERS = [
    "dev",
    "etc",
    "host",
    "mnt",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "usr/bin",
    "usr/sbin",
    "var",
]


def _program(name: str) -> Path:
    found = shutil.which(name, path=SEARCH)
    if not found:
        raise Failure(f"{name} is not installed")
    return Path(found)


def busybox() -> Path:
    """The program that makes up most of the guest."""
    for path in (BUSYBOX, Path("/bin/busybox")):
        if path.exists():
            return path
    raise Failure("busybox-static is not installed")


def _libraries(program: Path) -> Iterator[tuple[str, Path]]:
    """The libraries that a program is linked with: name in the guest, file."""
    result = subprocess.run(
        ["ldd", str(program)], capture_output=True, text=True, check=False
    )
    if "not found" in result.stdout:
        raise Failure(f"a library of {program} is missing:\n{result.stdout}")
    for match in re.finditer(r"(?:=> )?(/\S+) \(0x", result.stdout):
        yield match.group(1), Path(match.group(1)).resolve()


def _libraries_of(program: Path, scratch: Path) -> dict[str, Path]:
    """The same, with stubs for libraries that the program does not need there."""
    libraries = dict(_libraries(program))
    if program.name not in STUBBED:
        return libraries
    by_name = {Path(name).name: path for name, path in libraries.items()}
    stubs = stub.make(program, by_name, scratch)
    if not stubs:
        return libraries
    folder = str(Path(next(name for name in libraries if "libc.so" in name)).parent)
    found = {f"{folder}/{name}": path for name, path in stubs.items()}
    for name, path in libraries.items():
        if Path(name).name.partition(".so")[0] in stub.KEPT or "ld-linux" in name:
            found[name] = path
    return found


def _inputs() -> dict[str, Path]:
    """The programs that go into the guest, by their name there."""
    return {"bin/busybox": busybox()} | {
        f"usr/bin/{name}": _program(name).resolve() for name in PROGRAMS
    }


def _write(programs: dict[str, Path], place: Path, scratch: Path) -> None:
    files = dict(programs)
    for name, program in programs.items():
        if name != "bin/busybox":
            # In the guest /lib and /lib64 are folders of their own.
            libraries = _libraries_of(program, scratch)
            files |= {each.strip("/"): path for each, path in libraries.items()}
    applets = subprocess.run(
        [str(files["bin/busybox"]), "--list"],
        capture_output=True,
        text=True,
        check=True,
    )
    buffer = io.BytesIO()
    archive = Archive(buffer)
    for name in FOLDERS:
        archive.folder(name)
    archive.device("dev/console", 5, 1)
    archive.device("dev/null", 1, 3)
    for name, path in sorted(files.items()):
        archive.file(name, path.read_bytes(), 0o755)
    taken = {Path(name).name for name in files}
    for applet in applets.stdout.split():
        if applet not in taken and applet != "busybox":
            archive.link(f"bin/{applet}", "/bin/busybox")
    archive.file("etc/passwd", b"root::0:0:root:/root:/bin/sh\n")
    archive.file("etc/group", b"root:x:0:\n")
    archive.file("etc/mke2fs.conf", Path("/etc/mke2fs.conf").read_bytes())
    archive.link("etc/mtab", "/proc/mounts")
    archive.file("init", (repository.TESTING / "guest" / "init").read_bytes(), 0o755)
    archive.finish()
    cache.write(place, buffer.getvalue())


def _age(path: Path) -> float:
    return path.stat().st_mtime


def build() -> Path:
    """The guest's file system, made if an input has changed."""
    files = _inputs()
    init = repository.TESTING / "guest" / "init"
    # Programs belong to packages: size and time tell their versions apart.
    stats = [(name, path.stat()) for name, path in sorted(files.items())]
    key = cache.key(
        [(name, status.st_size, status.st_mtime_ns) for name, status in stats],
        init.read_bytes(),
        Path(__file__).read_bytes(),
        Path(stub.__file__).read_bytes(),
    )
    place = cache.root() / "initramfs" / f"{key}.cpio"
    if not place.exists():
        place.parent.mkdir(exist_ok=True)
        step = progress.Step("making the guest's file system")
        with cache.lock("initramfs"), cache.scratch(place.parent) as scratch, step:
            if not place.exists():
                _write(files, place, scratch)
                kept = sorted(place.parent.glob("*.cpio"), key=_age, reverse=True)
                for old in kept[KEPT:]:
                    old.unlink()
    return place
