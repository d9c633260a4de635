# SPDX-License-Identifier: GPL-2.0
"""The guest's file system: busybox, the disk tools, and an init of our own."""

import io
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from lib import cache, progress, repository
from lib.archive import Archive
from lib.failure import Failure

# The host's programs that the guest has besides busybox, with their libraries.
PROGRAMS = ("fio", "mkfs.xfs", "xfs_repair", "mkfs.ext4", "e2fsck")
# Where the host keeps them; sbin is not in an ordinary user's PATH.
SEARCH = "/usr/bin:/usr/sbin:/bin:/sbin"
BUSYBOX = Path("/usr/bin/busybox")
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


def _busybox() -> Path:
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


def _inputs() -> dict[str, Path]:
    """The files of the host that go into the guest, by their name there."""
    files = {"bin/busybox": _busybox()}
    for name in PROGRAMS:
        program = _program(name)
        files[f"usr/bin/{name}"] = program.resolve()
        for library, path in _libraries(program):
            # In the guest /lib and /lib64 are folders of their own.
            files[library.strip("/")] = path
    return files


def _write(files: dict[str, Path], place: Path) -> None:
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
        mode = 0o755
        archive.file(name, path.read_bytes(), mode)
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
    )
    place = cache.root() / "initramfs" / f"{key}.cpio"
    if not place.exists():
        with cache.lock("initramfs"), progress.Step("making the guest's file system"):
            if not place.exists():
                _write(files, place)
                for old in place.parent.glob("*.cpio"):
                    if old != place:
                        old.unlink()
    return place
