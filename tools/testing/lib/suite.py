# SPDX-License-Identifier: GPL-2.0
"""Packages of a Debian suite that the system itself does not use.

They are fetched with a private apt configuration, from the mirror that the
system uses and with their signatures checked, so that the system's own apt
sources stay as they are.
"""

import re
import subprocess
from pathlib import Path

from lib import cache, distribution, progress
from lib.failure import Failure

KEYRINGS = tuple(
    Path("/usr/share/keyrings") / f"debian-archive-keyring.{suffix}"
    for suffix in ("gpg", "pgp")
)


def run(step: str, command: list[str], folder: Path, **settings) -> str:
    """Runs a command in a folder and shows how long it takes; returns its output."""
    with progress.Step(step):
        result = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            **settings,
        )
    if result.returncode:
        tail = "\n".join(result.stdout.splitlines()[-10:])
        raise Failure(f"{tail}\nthis failed: {' '.join(command)}")
    return result.stdout


def _system_sources() -> list[tuple[str, list[str]]]:
    """(mirror, suites) of all binary package sources of this system."""
    found = []
    folder = Path("/etc/apt/sources.list.d")
    for path in sorted(folder.glob("*.sources")):
        text = re.sub(r"(?m)^#.*\n?", "", path.read_text(encoding="utf-8"))
        for stanza in re.split(r"\n\s*\n", text):
            fields: dict[str, list[str]] = {}
            name = ""
            for line in stanza.splitlines():
                if line[:1].isspace() and name:
                    fields[name] += line.split()
                elif ":" in line:
                    name, _, value = line.partition(":")
                    name = name.lower()
                    fields[name] = value.split()
            if "deb" in fields.get("types", []) and fields.get("enabled") != ["no"]:
                for uri in fields.get("uris", []):
                    found.append((uri, fields.get("suites", [])))
    for path in [Path("/etc/apt/sources.list"), *sorted(folder.glob("*.list"))]:
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                match = re.match(r"\s*deb\s+(?:\[[^]]*\]\s*)?(\S+)\s+(\S+)", line)
                if match:
                    found.append((match.group(1), [match.group(2)]))
    return found


def _mirror(suite: str) -> str:
    """The Debian mirror that this system uses."""
    codename = distribution.os_release().get("VERSION_CODENAME", "")
    for uri, suites in _system_sources():
        if codename in suites or "stable" in suites or suite in suites:
            return uri
    raise Failure(
        f"no Debian mirror with {codename} in the system's apt sources, from which "
        f"packages of {suite} could be fetched"
    )


def _configuration(suite: str, folder: Path) -> Path:
    """Makes a private apt configuration with one suite in it."""
    keyring = next((path for path in KEYRINGS if path.exists()), None)
    if keyring is None:
        raise Failure(f"none of {', '.join(map(str, KEYRINGS))} exists")
    for name in ("sources", "state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "state" / "status").touch()
    cache.write(
        folder / "sources" / "suite.sources",
        f"Types: deb\nURIs: {_mirror(suite)}\nSuites: {suite}\nComponents: main\n"
        f"Signed-By: {keyring}\n",
    )
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True)
    path = folder / "apt.conf"
    cache.write(
        path,
        f"""#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "{folder}/sources";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State "{folder}/state";
Dir::State::status "{folder}/state/status";
Dir::Cache "{folder}/cache";
APT::Sandbox::User "{user.stdout.strip()}";
APT::Get::List-Cleanup "false";
Acquire::Languages "none";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
""",
    )
    return path


class Suite:
    """A suite, with its list of packages read anew."""

    def __init__(self, name: str):
        self.name = name
        self._folder = cache.root() / "apt" / name
        self._folder.mkdir(parents=True, exist_ok=True)
        self._options = ["-c", str(_configuration(name, self._folder))]
        command = ["apt-get", *self._options, "update"]
        run(f"reading the list of packages of {name}", command, self._folder)

    def version(self, package: str) -> str | None:
        """The version of a package that the suite offers; None if it has none."""
        offered = subprocess.run(
            ["apt-cache", *self._options, "show", package],
            capture_output=True,
            text=True,
            check=False,
        )
        found = re.search(r"^Version: (\S+)$", offered.stdout, re.MULTILINE)
        return found.group(1) if found else None

    def unpack(self, packages: list[str], folder: Path) -> None:
        """Downloads packages and unpacks what is in them into a folder."""
        with cache.scratch(self._folder) as scratch:
            run(
                f"downloading {' '.join(packages)}",
                ["apt-get", *self._options, "download", *packages],
                scratch,
            )
            for deb in scratch.glob("*.deb"):
                run(
                    f"opening {deb.name}",
                    ["dpkg-deb", "-x", str(deb), str(folder)],
                    scratch,
                )
