# SPDX-License-Identifier: GPL-2.0
"""The compilers that build the kernel, each named explicitly.

A rustup toolchain often comes first in PATH and lacks the library's source,
without which the kernel's `core` cannot be built; so nothing is left to PATH.
"""

import os
import shutil
import subprocess
from pathlib import Path

from lib import cache, distribution, emulator, progress
from lib.failure import Failure

BINDGEN_VERSION = "0.73.2"

# What would change a build from outside if it were passed on.
FOREIGN = [
    "ARCH",
    "CLIPPY_DRIVER",
    "CROSS_COMPILE",
    "GNUMAKEFLAGS",
    "HOSTCFLAGS",
    "HOSTLDFLAGS",
    "HOSTRUSTC",
    "KAFLAGS",
    "KBUILD_OUTPUT",
    "KCFLAGS",
    "KCONFIG_ALLCONFIG",
    "KCONFIG_CONFIG",
    "KCPPFLAGS",
    "KDIR",
    "KRUSTFLAGS",
    "LLVM",
    "LOCALVERSION",
    "M",
    "MAKEFILES",
    "MAKEFLAGS",
    "MAKELEVEL",
    "MAKEOVERRIDES",
    "MFLAGS",
    "O",
    "RUSTC",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTFMT",
    "V",
    "W",
    "BINDGEN",
    "FLAVOUR",
]


def environment() -> dict[str, str]:
    """The environment for compilers and make."""
    result = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    result["LC_ALL"] = "C.UTF-8"
    # Two builds of the same sources give the same kernel.
    result["KBUILD_BUILD_TIMESTAMP"] = "2026-01-01"
    result["KBUILD_BUILD_USER"] = "cc_swiotlb"
    result["KBUILD_BUILD_HOST"] = "cache"
    result["KBUILD_BUILD_VERSION"] = "1"
    return result


def _bindgen() -> Path:
    if distribution.release().has_bindgen:
        return Path("/usr/bin/bindgen")
    return cache.root() / "tools" / f"bindgen-{BINDGEN_VERSION}" / "bin" / "bindgen"


def variables() -> dict[str, str]:
    """The make variables that choose the toolchain."""
    return {
        "LLVM": f"-{distribution.release().llvm}",
        "RUSTC": "/usr/bin/rustc",
        "RUSTDOC": "/usr/bin/rustdoc",
        "RUSTFMT": "/usr/bin/rustfmt",
        "CLIPPY_DRIVER": "/usr/bin/clippy-driver",
        "HOSTRUSTC": "/usr/bin/rustc",
        "BINDGEN": str(_bindgen()),
    }


def make_arguments() -> list[str]:
    """The same as arguments for make."""
    return [f"{name}={value}" for name, value in variables().items()]


def identity() -> str:
    """A short name for the toolchain's versions."""
    parts = []
    for package in distribution.release().packages():
        if any(word in package for word in ("clang", "lld", "llvm", "rust", "bindgen")):
            parts.append(package)
    versions = subprocess.run(
        ["dpkg-query", "--show", *parts], capture_output=True, text=True, check=False
    )
    return cache.key(versions.stdout, str(_bindgen()))


def _cargo() -> tuple[str, dict[str, str]] | None:
    """A cargo that works and its environment; None if there is none."""
    settings = environment()
    for name in ("/usr/bin/cargo", shutil.which("cargo")):
        if not name or not Path(name).exists():
            continue
        if name == "/usr/bin/cargo":
            settings["RUSTC"] = "/usr/bin/rustc"
        else:
            settings.pop("RUSTC", None)
        probe = subprocess.run(
            [name, "--version"], env=settings, capture_output=True, check=False
        )
        if probe.returncode == 0:
            return name, settings
    return None


def _install_bindgen(place: Path) -> None:
    needed = ["gcc"]
    if _cargo() is None:
        needed.append("cargo-web")
    distribution.install(needed)
    found = _cargo()
    if found is None:
        raise Failure("there is no cargo that works, so bindgen cannot be built")
    cargo, settings = found
    log = cache.root() / "logs" / "bindgen.log"
    log.parent.mkdir(exist_ok=True)
    with cache.new_folder(place) as folder, open(log, "wb") as output:
        settings["CARGO_TARGET_DIR"] = str(folder / "target")
        with progress.Step(f"building bindgen {BINDGEN_VERSION}"):
            result = subprocess.run(
                [cargo, "install", "--locked", "bindgen-cli"]
                + ["--version", BINDGEN_VERSION, "--root", str(folder)],
                env=settings,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if result.returncode:
            said = log.read_text(encoding="utf-8", errors="replace").splitlines()
            tail = "\n".join(said[-12:])
            raise Failure(f"{tail}\nbindgen could not be built, see {log}")
        shutil.rmtree(folder / "target")


def set_up() -> None:
    """Installs packages and tools that are missing; instant if none is."""
    release = distribution.release()
    distribution.install(release.packages())
    emulator.set_up()
    bindgen = _bindgen()
    if not release.has_bindgen and not bindgen.exists():
        with cache.lock("tools"):
            if not bindgen.exists():
                _install_bindgen(bindgen.parent.parent)
