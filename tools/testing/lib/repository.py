# SPDX-License-Identifier: GPL-2.0
"""This repository: where it is and what belongs to the kernel build."""

import subprocess
from pathlib import Path

from lib import cache
from lib.failure import Failure

ROOT = Path(__file__).resolve().parents[3]
TESTING = ROOT / "tools" / "testing"

# Files of these kinds are compiled.
COMPILED_SUFFIXES = (".c", ".h", ".rs", ".S")
COMPILED_NAMES = ("Makefile", "Kbuild", "Kconfig")
BUILT_IN = "tools/testing/dma_test/"


def series() -> list[str]:
    """The kernel series there are patches for, oldest first."""
    found = [path.name for path in (ROOT / "patches").glob("[0-9]*.[0-9]*")]
    if not found:
        raise Failure(f"there are no patches in {ROOT / 'patches'}")
    return sorted(found, key=lambda name: [int(part) for part in name.split(".")])


def _files() -> list[str]:
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-coz", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0 and (ROOT / ".git").exists():
        names = [name for name in listed.stdout.split("\0") if name]
    else:
        names = [
            str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file()
        ]
    return sorted(name for name in names if (ROOT / name).is_file())


def kernel_inputs() -> str:
    """A short name for everything in this repository that a kernel is made of."""
    wanted = []
    for name in _files():
        path = Path(name)
        # The modules under tools/ are built by the tests that use them, but for the
        # one that can be built in.
        compiled = (
            path.suffix in COMPILED_SUFFIXES or path.name in COMPILED_NAMES
        ) and (not name.startswith("tools/") or name.startswith(BUILT_IN))
        if compiled or path.suffix in (".patch", ".config"):
            wanted.append(ROOT / path)
    wanted.append(ROOT / "tools" / "install-tree")
    return cache.content_key([path for path in wanted if path.exists()], ROOT)
