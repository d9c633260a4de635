# SPDX-License-Identifier: GPL-2.0
"""The compilers that build the kernel: those of the root of tools.

tools/testing/enter, which starts everything here, sees to it that there are no
others, and that the environment has nothing that would change a build.
"""

import os
from pathlib import Path

CLANG, GCC = "clang", "gcc"

PACKAGES = Path("/usr/share/cc_swiotlb/packages")


def environment() -> dict[str, str]:
    """The environment for compilers and make."""
    return {
        **os.environ,
        # Two builds of the same sources give the same kernel.
        "KBUILD_BUILD_TIMESTAMP": "2026-01-01",
        "KBUILD_BUILD_USER": "cc_swiotlb",
        "KBUILD_BUILD_HOST": "cache",
        "KBUILD_BUILD_VERSION": "1",
    }


def make_arguments(compiler: str = CLANG) -> list[str]:
    """The arguments by which make uses a compiler; gcc is its default."""
    return ["LLVM=1"] if compiler == CLANG else []


def identity() -> str:
    """A short name for the versions of all tools that a kernel's bits come from.

    tools/testing/toolroot/identity has the list.
    """
    return os.environ["CC_SWIOTLB_TOOLS"]


def version(package: str) -> str | None:
    """The version of a package in the root of tools; None if it is not there."""
    for line in PACKAGES.read_text(encoding="utf-8").splitlines():
        name, _, found = line.partition("\t")
        if name.partition(":")[0] == package:
            return found
    return None
