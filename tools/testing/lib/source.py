# SPDX-License-Identifier: GPL-2.0
"""The pristine kernel source, from Debian's linux-source package or KSRC=.

Debian offers the kernel series this project supports in a backports suite.
The package is fetched with a private apt configuration, from the mirror that
the system itself uses and with its signatures checked, so that the system's
own apt sources stay as they are.
"""

import dataclasses
import os
import re
import subprocess
import tarfile
from pathlib import Path

from lib import cache, distribution, progress, repository
from lib.failure import Failure

SUITE = "trixie-backports"
KEYRINGS = tuple(
    Path("/usr/share/keyrings") / f"debian-archive-keyring.{suffix}"
    for suffix in ("gpg", "pgp")
)


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


def _mirror() -> str:
    """The Debian mirror that this system uses."""
    codename = distribution.os_release().get("VERSION_CODENAME", "")
    for uri, suites in _system_sources():
        if codename in suites or "stable" in suites or SUITE in suites:
            return uri
    raise Failure(
        f"no Debian mirror with {codename} in the system's apt sources, from which "
        "the kernel source could be fetched; name a kernel tree or tarball with KSRC="
    )


def _apt_configuration(folder: Path) -> Path:
    """Makes a private apt configuration with one suite in it."""
    keyring = next((path for path in KEYRINGS if path.exists()), None)
    if keyring is None:
        raise Failure(f"none of {', '.join(map(str, KEYRINGS))} exists")
    for name in ("sources", "state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "state" / "status").touch()
    cache.write(
        folder / "sources" / "kernel.sources",
        f"Types: deb\nURIs: {_mirror()}\nSuites: {SUITE}\nComponents: main\n"
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


def _run(step: str, command: list[str], folder: Path, **settings) -> str:
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


def _unpack(tarball: Path, place: Path) -> None:
    """Unpacks a kernel tarball so that `place` is its top folder."""
    with cache.new_folder(place) as folder:
        _run(
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
    private = cache.root() / "apt"
    private.mkdir(exist_ok=True)
    apt = ["apt-get", "-c", str(_apt_configuration(private))]
    _run(f"reading the list of packages of {SUITE}", [*apt, "update"], private)
    for series in reversed(repository.series()):
        package = f"linux-source-{series}"
        offered = subprocess.run(
            ["apt-cache", *apt[1:], "show", package],
            capture_output=True,
            text=True,
            check=False,
        )
        version = re.search(r"^Version: (\S+)$", offered.stdout, re.MULTILINE)
        if not version:
            continue
        name = version.group(1).replace("~", "_")
        place = sources / name
        if not place.exists():
            with cache.scratch(private) as folder:
                _run(
                    f"downloading {package} {version.group(1)} (170 MB)",
                    [*apt, "download", package],
                    folder,
                )
                deb = next(folder.glob("*.deb"))
                _run(f"opening {package}", ["dpkg-deb", "-x", str(deb), "x"], folder)
                _unpack(next(folder.glob("x/usr/src/*.tar.*")), place)
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
