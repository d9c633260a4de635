# SPDX-License-Identifier: GPL-2.0
"""Where sources, tools and objects are kept, outside the checkout.

Everything in the cache can be deleted at any time while no tool runs.  What a
tool puts there appears whole or not at all: it is made under a temporary name
beside its place and renamed.  A build holds a lock.  Leftovers of interrupted
runs carry the prefix PARTIAL and are swept by the next run that takes the
same lock.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lib import progress

PARTIAL = ".partial-"


def root() -> Path:
    """The cache folder, as tools/testing/enter names it."""
    return Path(os.environ["CC_SWIOTLB_CACHE"])


@contextlib.contextmanager
def lock(name: str) -> Iterator[int]:
    """Holds the lock `name`; says so if another process has it.

    Gives the lock's descriptor: a child that inherits it keeps the lock for as
    long as it runs, even if this process is killed.
    """
    folder = root() / "locks"
    folder.mkdir(exist_ok=True)
    with open(folder / name, "w", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.note(f"waiting for another process to finish its {name} step")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


@contextlib.contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """Gives a temporary folder in `parent`, of which nothing is kept.

    The caller holds the lock that covers `parent`.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for leftover in parent.glob(f"{PARTIAL}scratch-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{PARTIAL}scratch-", dir=parent) as name:
        yield Path(name)


@contextlib.contextmanager
def new_folder(place: Path) -> Iterator[Path]:
    """Gives a temporary folder that becomes `place` when all went well.

    The caller holds the lock that covers `place`.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    for leftover in place.parent.glob(f"{PARTIAL}{place.name}-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = Path(
        tempfile.mkdtemp(prefix=f"{PARTIAL}{place.name}-", dir=place.parent)
    )
    try:
        temporary.chmod(0o755)
        yield temporary
        if place.exists():
            shutil.rmtree(place)
        temporary.rename(place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write(path: Path, content: bytes | str, mode: int | None = None) -> bool:
    """Gives `path` this content in one step; leaves it alone if it has it.

    Returns whether anything was written.  The file is replaced, never changed
    in place, so that hard links to the old one keep the old content.
    """
    data = content.encode() if isinstance(content, str) else content
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == data and mode in (None, path.stat().st_mode & 0o777):
            return False
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=PARTIAL, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644 if mode is None else mode)
        os.rename(name, path)
    except BaseException:
        os.unlink(name)
        raise
    return True


def key(*parts: object) -> str:
    """A short name for this combination of inputs."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(part).encode() + b"\0")
    return digest.hexdigest()[:16]


def content_key(paths: list[Path], base: Path = Path("/")) -> str:
    """A short name for the contents of these files and their names below `base`."""
    parts = []
    for path in paths:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        parts.append((str(path.relative_to(base)), digest))
    return key(*parts)
