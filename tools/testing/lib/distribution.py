# SPDX-License-Identifier: GPL-2.0
"""The Debian release this runs on, its packages, and how to install them."""

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path

from lib import progress
from lib.failure import Failure

# What every release calls the same.
COMMON = [
    "bc",
    "binutils",
    "bison",
    "busybox-static",
    "ca-certificates",
    "cpio",
    "debian-archive-keyring",
    "e2fsprogs",
    "fio",
    "flex",
    "git",
    "kmod",
    "libc6-dev",
    "libelf-dev",
    "libssl-dev",
    "make",
    "nbdkit",
    "patch",
    "perl",
    "python3",
    "python3-matplotlib",
    "python3-pytest",
    "qemu-system-x86",
    "rsync",
    "shellcheck",
    "xfsprogs",
    "xz-utils",
]


@dataclasses.dataclass(frozen=True)
class Release:
    """What differs between the releases."""

    name: str
    llvm: str
    rust: tuple[str, ...]
    has_bindgen: bool

    def packages(self) -> list[str]:
        """All packages that set-up, build, demo and check need."""
        llvm = [f"{name}-{self.llvm}" for name in ("clang", "lld", "llvm")]
        llvm.append(f"libclang-{self.llvm}-dev")
        return sorted([*COMMON, *llvm, *self.rust])


RELEASES = {
    "12": Release(
        "Debian 12",
        "22",
        ("rustc-web", "rust-web-src", "rust-web-clippy", "rustfmt-web"),
        has_bindgen=False,
    ),
    "13": Release(
        "Debian 13",
        "19",
        ("rustc", "rust-src", "rust-clippy", "rustfmt", "bindgen"),
        has_bindgen=True,
    ),
}


def os_release() -> dict[str, str]:
    """The fields of /etc/os-release."""
    fields = {}
    for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines():
        name, separator, value = line.partition("=")
        if separator:
            fields[name] = value.strip("\"'")
    return fields


def release() -> Release:
    """The release this machine runs; a Failure if it is not a known one."""
    fields = os_release()
    found = RELEASES.get(fields.get("VERSION_ID", ""))
    if fields.get("ID") != "debian" or found is None:
        known = " and ".join(each.name for each in RELEASES.values())
        raise Failure(
            f"the set-up knows {known}, this is "
            f"{fields.get('PRETTY_NAME', 'an unknown system')}"
        )
    return found


def missing(packages: list[str]) -> list[str]:
    """Those of the packages that are not installed."""
    query = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n"]
        + packages,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    rows = [line.split() for line in query.stdout.splitlines()]
    installed = {row[0] for row in rows if row[1:] == ["installed"]}
    return [package for package in packages if package not in installed]


def _privilege() -> list[str] | None:
    """What to put before a command to run it as root; None if that is not possible."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo"):
        probe = subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False)
        if probe.returncode == 0:
            return ["sudo", "-n"]
    return None


def install(packages: list[str]) -> None:
    """Installs those of the packages that are missing, or says how to."""
    wanted = missing(packages)
    if not wanted:
        return
    arguments = ["install", "--yes", "--no-install-recommends", "--no-remove", *wanted]
    line = "apt-get " + " ".join(arguments)
    privilege = _privilege()
    if privilege is None:
        raise Failure(
            "these packages are missing; as root, run\n\n"
            f"    apt-get update && {line}\n\nand start again"
        )
    progress.note(f"installing {len(wanted)} packages: {' '.join(wanted)}")
    environment = ["env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"]
    for command in (["update"], arguments):
        with progress.Step(f"apt-get {command[0]}"):
            result = subprocess.run(
                [*privilege, *environment, "apt-get", *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
            )
        # A failed update matters only if the installation fails for it.
        if result.returncode and command is arguments:
            tail = "\n".join(result.stdout.splitlines()[-15:])
            hint = ""
            if "Unable to locate" in tail or "no installation candidate" in tail:
                codename = os_release().get("VERSION_CODENAME", "")
                hint = f"; are {codename} and {codename}-security in apt's sources?"
            raise Failure(f"{tail}\n\nthis failed: {line}{hint}")
