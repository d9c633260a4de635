# SPDX-License-Identifier: GPL-2.0
"""The pristine kernel source: that of the root of tools, or KSRC=.

The root of tools has Debian's linux-source package of the newest series that this
project supports and Debian offers.
"""

import dataclasses
import os
import re
import subprocess
import tarfile
from pathlib import Path

from lib import cache, progress, repository, toolchain
from lib.failure import Failure

PACKAGED = Path("/usr/src")


@dataclasses.dataclass(frozen=True)
class Source:
    """A pristine tree; `name` is its place in the cache."""

    name: str
    folder: Path
    title: str


def series_of(tree: Path) -> str:
    """The series of a kernel tree: "7.3" for 7.3.4."""
    try:
        text = (tree / "Makefile").read_text(encoding="utf-8")
    except OSError as error:
        raise Failure(f"{tree} is not a kernel tree: {error}") from error
    found = [
        re.search(rf"^{name} = (\d+)$", text, re.MULTILINE)
        for name in ("VERSION", "PATCHLEVEL")
    ]
    if None in found or not (tree / "Kbuild").exists():
        raise Failure(f"{tree} is not a kernel tree")
    return ".".join(match.group(1) for match in found)


def _check_series(tree: Path) -> str:
    series = series_of(tree)
    supported = repository.series()
    if series not in supported:
        raise Failure(
            f"{tree} is Linux {series}; there are patches for {', '.join(supported)}"
        )
    return series


def _unpack(tarball: Path, place: Path) -> None:
    """Unpacks a kernel tarball so that `place` is its top folder."""
    with (
        cache.new_folder(place) as folder,
        progress.Step(f"unpacking {tarball.name}"),
    ):
        done = subprocess.run(
            ["tar", "--extract", "--no-same-owner", "--strip-components=1"]
            + ["--file", str(tarball), "--directory", str(folder)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            tail = "\n".join(done.stderr.splitlines()[-3:])
            raise Failure(f"{tail}\n{tarball} could not be unpacked")
        _check_series(folder)


def _from_package() -> Source:
    """The kernel source of the root of tools."""
    for series in reversed(repository.series()):
        package = f"linux-source-{series}"
        version = toolchain.version(package)
        if version:
            name = version.replace("~", "_")
            place = cache.root() / "source" / name
            if not place.exists():
                _unpack(PACKAGED / f"{package}.tar.xz", place)
            return Source(name, place, f"{package} {version}")
    raise Failure(
        "Debian offered none of the supported kernel series "
        f"({', '.join(repository.series())}) when the root of tools was made; name a "
        "kernel tree or tarball with KSRC=, or try make setup REFRESH=1"
    )


def _from_user(path: Path) -> Source:
    """The tree or tarball that KSRC= names."""
    if path.is_dir():
        series = _check_series(path)
        head = subprocess.run(
            ["git", "-C", str(path), "log", "-1", "--format=%H %cd"],
            capture_output=True,
            text=True,
            check=False,
        )
        stamp = (path / "Makefile").stat().st_mtime_ns
        key = cache.key(str(path.resolve()), head.stdout, stamp)
        return Source(f"user-{key}", path.resolve(), f"{path}, Linux {series}")
    if not path.is_file() or not tarfile.is_tarfile(path):
        raise Failure(f"KSRC={path} is neither a kernel tree nor a tarball")
    status = path.stat()
    key = cache.key(str(path.resolve()), status.st_mtime_ns, status.st_size)
    place = cache.root() / "source" / f"user-{key}"
    if not place.exists():
        _unpack(path.resolve(), place)
    return Source(place.name, place, f"{path}, Linux {series_of(place)}")


def pristine() -> Source:
    """The kernel source to build, unpacked."""
    named = os.environ.get("KSRC")
    with cache.lock("source"):
        return _from_user(Path(named)) if named else _from_package()
