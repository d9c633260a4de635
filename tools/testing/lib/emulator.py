# SPDX-License-Identifier: GPL-2.0
"""QEMU: one that runs several CPUs in parallel, and well.

Before 8.1 (its commit deba78709ae8) a CPU may go on with the translation of
code that another one has just patched: one boot in fifty ends with "Oops:
int3", in a static key's branch. Where the system's QEMU is older, a newer one
is taken from backports.
"""

import re
import shutil
import subprocess
from pathlib import Path

from lib import cache, distribution, progress
from lib.failure import Failure
from lib.suite import Suite

NAME = "qemu-system-x86_64"
PACKAGES = ("qemu-system-x86", "qemu-system-common", "qemu-system-data")
PARALLEL = (8, 1)


def _version(program: Path | str) -> tuple[int, int]:
    shown = subprocess.run(
        [program, "--version"], capture_output=True, text=True, check=False
    )
    found = re.search(r"version (\d+)\.(\d+)", shown.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def is_parallel(program: Path | str) -> bool:
    """Whether a QEMU runs several CPUs in parallel without losing code patches."""
    return _version(program) >= PARALLEL


def _own() -> Path | None:
    """The newest QEMU in the cache."""
    found = (cache.root() / "tools").glob(f"qemu-*/usr/bin/{NAME}")
    return max(found, key=_version, default=None)


def _fetch() -> Path:
    codename = distribution.os_release().get("VERSION_CODENAME", "")
    suite = Suite(f"{codename}-backports")
    version = suite.version(PACKAGES[0])
    if not version:
        raise Failure(f"{suite.name} has no {PACKAGES[0]}")
    place = (
        cache.root() / "tools" / f"qemu-{version.replace(':', '_').replace('~', '_')}"
    )
    with cache.new_folder(place) as folder:
        suite.unpack(list(PACKAGES), folder)
        if not is_parallel(folder / "usr/bin" / NAME):
            raise Failure(f"QEMU of {suite.name} does not run, or is too old")
    return place / "usr/bin" / NAME


def set_up() -> None:
    """Fetches a QEMU if the system's is old. Without one the system's has to do."""
    system = shutil.which(NAME)
    if (system and is_parallel(system)) or _own():
        return
    with cache.lock("tools"):
        if _own():
            return
        try:
            _fetch()
        except (Failure, OSError) as error:
            progress.note(f"guests will run on one CPU of this machine: {error}")


def program() -> str:
    """The QEMU to use."""
    system = shutil.which(NAME)
    if system and is_parallel(system):
        return system
    own = _own()
    if own:
        return str(own)
    if not system:
        raise Failure(f"{NAME} is not installed")
    return system


def accelerator(qemu: str) -> str:
    """TCG, with a thread for each CPU if this QEMU does that well."""
    return "tcg,thread=multi" if is_parallel(qemu) else "tcg,thread=single"
