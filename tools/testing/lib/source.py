# SPDX-License-Identifier: GPL-2.0
"""The pristine kernel source, from Debian's linux-source package or KSRC=.

Debian offers the kernel series this project supports in a backports suite.
"""

import dataclasses
import os
import re
import subprocess
import tarfile
from pathlib import Path

from lib import cache, repository
from lib.failure import Failure
from lib.suite import Suite, run

SUITE = "trixie-backports"


@dataclasses.dataclass(frozen=True)
class Source:
    """A pristine tree; `name` is its place in the cache."""

    name: str
    folder: Path
    series: str


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
    with cache.new_folder(place) as folder:
        run(
            f"unpacking {tarball.name}",
            ["tar", "--extract", "--no-same-owner", "--strip-components=1"]
            + ["--file", str(tarball)],
            folder,
        )
        _check_series(folder)


def _from_package() -> Source:
    """The newest supported linux-source package, fetched if there is none yet."""
    sources = cache.root() / "source"
    for series in reversed(repository.series()):
        kept = [
            path
            for path in sources.glob(f"{series}.*")
            if not path.name.startswith(cache.PARTIAL)
        ]
        if kept:
            newest = max(kept, key=lambda path: path.stat().st_mtime)
            return Source(newest.name, newest, series)
    return _fetch()


def _fetch() -> Source:
    sources = cache.root() / "source"
    suite = Suite(SUITE)
    for series in reversed(repository.series()):
        package = f"linux-source-{series}"
        version = suite.version(package)
        if not version:
            continue
        name = version.replace("~", "_")
        place = sources / name
        if not place.exists():
            with cache.scratch(sources) as folder:
                suite.unpack([package], folder)
                _unpack(next(folder.glob("usr/src/*.tar.*")), place)
        return Source(name, place, series)
    raise Failure(
        f"{SUITE} offers none of the supported kernel series "
        f"({', '.join(repository.series())}); name a kernel tree or tarball with KSRC="
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
        return Source(f"user-{key}", path.resolve(), series)
    if not path.is_file() or not tarfile.is_tarfile(path):
        raise Failure(f"KSRC={path} is neither a kernel tree nor a tarball")
    status = path.stat()
    key = cache.key(str(path.resolve()), status.st_mtime_ns, status.st_size)
    place = cache.root() / "source" / f"user-{key}"
    if not place.exists():
        _unpack(path.resolve(), place)
    return Source(place.name, place, series_of(place))


def refresh() -> Source:
    """Fetches the newest supported kernel source that Debian offers."""
    with cache.lock("source"):
        found = _fetch()
        # The newest folder is the one that is used.
        os.utime(found.folder)
        return found


def pristine() -> Source:
    """The kernel source to build; needs no network if it is there already."""
    named = os.environ.get("KSRC")
    with cache.lock("source"):
        return _from_user(Path(named)) if named else _from_package()
