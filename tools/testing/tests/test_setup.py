# SPDX-License-Identifier: GPL-2.0
"""The root of tools: how it is entered, made, shared and swept."""

import contextlib
import fcntl
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import vm
from lib import source, toolchain
from lib.failure import Failure

ENTER = vm.TESTING / "enter"
TOOLROOT = vm.TESTING / "toolroot"
CACHE = Path(os.environ["CC_SWIOTLB_CACHE"])
FAILED = 125
OLD_S = 3 * 24 * 3600

# As a user starts it, with things in the environment that must not count.
HOST = {
    "HOME": "/tmp",
    "PATH": "/nowhere:/usr/bin:/bin",
    "CC_SWIOTLB_CACHE": str(CACHE),
    "RUSTFLAGS": "--cfg nonsense",
    "MAKEFLAGS": "nonsense",
    "PYTHONPATH": "/nowhere",
    "CC_SWIOTLB_MIRROR": "file:/nowhere",
}


def _enter(*words: str, **settings: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(ENTER), *words],
        env=HOST | settings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_environment():
    """The command gets a clean environment, and the variables that are passed."""
    done = _enter("env", KSRC="/some/tree", TERM="vt100")
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert found["PATH"] == "/usr/sbin:/usr/bin:/sbin:/bin"
    assert (found["KSRC"], found["TERM"]) == ("/some/tree", "vt100")
    assert found["CC_SWIOTLB_TOOLS"] == os.environ["CC_SWIOTLB_TOOLS"]
    assert not {"RUSTFLAGS", "MAKEFLAGS", "PYTHONPATH"} & set(found)


def test_arguments_and_status():
    """The words arrive as they are, and the status comes back."""
    done = _enter("sh", "-c", 'printf "%s|" "$@"; exit 42', "sh", "a b", "", "c=d")
    assert (done.returncode, done.stdout) == (42, "a b||c=d|")


def test_nested():
    """From inside, a command is just run."""
    done = subprocess.run(
        [str(ENTER), "sh", "-c", "echo $NESTED"],
        env=os.environ | {"NESTED": "yes"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "yes\n"


@pytest.mark.parametrize("variable", ["KSRC", "KDIR"])
@pytest.mark.parametrize("place", ["/var/tmp", "/run", "/usr/src"])
def test_visible(variable, place):
    """Files that a user names are there, also below the system's own folders."""
    named = Path(place) / f"cc-swiotlb-test-{os.getpid()}"
    # A mount, as the real /usr of the host is out of reach from in here.
    script = (
        f"mount -t tmpfs none {place} && mkdir {named} && echo inside >{named}/file"
    )
    try:
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c"]
            + [f"{script} && exec {ENTER} cat {named}/file"],
            env=HOST | {variable: str(named)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == "inside\n", done.stderr
    finally:
        # Remove the mount point.
        for root in (CACHE / "roots").iterdir():
            with contextlib.suppress(FileNotFoundError):
                root.joinpath(*named.parts[1:]).rmdir()


def test_tools_are_read_only():
    """No command changes the tools."""
    done = _enter("sh", "-c", "touch /usr/changed || echo refused")
    assert done.stdout == "refused\n"


def test_signal():
    """A signal to what was started reaches the command, which can clean up."""
    with subprocess.Popen(
        [
            str(ENTER),
            "sh",
            "-c",
            "trap 'echo cleaned; exit 3' TERM; echo up; sleep 9 & wait",
        ],
        env=HOST,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "cleaned\n"
    assert process.returncode == 3


def test_warm_start_without_network():
    """With a root of tools there is nothing to be fetched."""
    done = subprocess.run(
        ["unshare", "--net", str(ENTER), "echo", "up"],
        env=HOST,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "up\n", "")


def test_no_rights():
    """Root in a container without the right to mount is told so."""
    done = subprocess.run(
        ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]
        + [str(ENTER), "true"],
        env=HOST,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == FAILED
    assert "SYS_ADMIN" in done.stderr and done.stderr.count("\n") == 1


def _fails(
    cache: Path, words: str, before: tuple[str, ...] = (), **settings: str
) -> str:
    """A cold start that must fail with one message and leave no root behind."""
    done = subprocess.run(
        [*before, str(ENTER), "echo", "up"],
        env=HOST | {"CC_SWIOTLB_CACHE": str(cache)} | settings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (FAILED, ""), done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("enter: ")]
    assert words in said[0], done.stderr
    assert len(said) <= 2 and "all that was said" in said[-1] + " all that was said"
    assert not list((cache / "roots").iterdir())
    return done.stderr


def test_no_network(tmp_path):
    """Without a network the mirror is named."""
    mirror = "http://mirror.invalid/debian"
    said = _fails(tmp_path, mirror, ("unshare", "--net"), CC_SWIOTLB_MIRROR=mirror)
    assert "CC_SWIOTLB_MIRROR=" in said


def test_unsigned_mirror(tmp_path):
    """A mirror that Debian has not signed is refused."""
    for suite in ("trixie", "trixie-backports"):
        folder = tmp_path / "mirror" / "dists" / suite
        folder.mkdir(parents=True)
        (folder / "Release").write_text(
            f"Origin: Debian\nSuite: {suite}\nCodename: {suite}\nComponents: main\n"
            "Architectures: amd64\nDate: Thu, 01 Jan 2026 00:00:00 UTC\n"
        )
    cache = tmp_path / "cache"
    said = _fails(cache, "is not signed", CC_SWIOTLB_MIRROR=f"file:{tmp_path}/mirror")
    assert "choosing packages" not in said


def test_full_disk(tmp_path):
    """Too small a disk is seen before anything is fetched."""
    cache = tmp_path / "cache"
    cache.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(cache)], check=True
    )
    try:
        _fails(cache, "MiB are free")
    finally:
        subprocess.run(["umount", str(cache)], check=True)


def test_leftovers(tmp_path):
    """Leftovers of runs and earlier versions are removed before making a new root."""
    for name in ("roots/.partial-x/usr", "tools/qemu-1", "apt/trixie-backports"):
        (tmp_path / name).mkdir(parents=True)
    _fails(tmp_path, "no mirror")
    assert not (tmp_path / "tools").exists() and not (tmp_path / "apt").exists()


def test_cold_starts_take_turns(tmp_path):
    """A second start waits for the one that makes the root, and says so."""
    (tmp_path / "locks").mkdir()
    with open(tmp_path / "locks" / "roots", "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with subprocess.Popen(
            [str(ENTER), "true"],
            env=HOST | {"CC_SWIOTLB_CACHE": str(tmp_path)},
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert "waiting" in process.stderr.readline()
            assert not select.select([process.stderr], [], [], 0.7)[0]
            fcntl.flock(file, fcntl.LOCK_UN)
            assert "making the root of tools" in process.stderr.readline()


@pytest.mark.parametrize(
    "age_s,used,kept", [(OLD_S, False, False), (OLD_S, True, True), (0, False, True)]
)
def test_stale_roots(age_s, used, kept):
    """A root that is not in use, and was not for a day, is removed."""
    stale = CACHE / "roots" / f"test-{os.getpid()}-{age_s}-{used}"
    (stale / "usr").mkdir(parents=True)
    then = time.time() - age_s
    os.utime(stale, (then, then))
    descriptor = os.open(stale, os.O_RDONLY)
    try:
        if used:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        assert _enter("true").returncode == 0
        assert stale.exists() == kept
    finally:
        os.close(descriptor)
        shutil.rmtree(stale, ignore_errors=True)


def test_root_in_use_is_locked():
    """A command holds the lock that keeps its root."""
    with subprocess.Popen(
        [str(ENTER), "sh", "-c", "echo up; read _"],
        env=HOST,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.readline()
        # The files that the command has inherited.
        files = Path(f"/proc/{process.pid}/fdinfo").iterdir()
        locks = [text for file in files if "FLOCK" in (text := file.read_text())]
        process.kill()
    assert len(locks) == 1 and "READ" in locks[0]


SOURCES = {
    "debian.sources": """Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
""",
    "docker.list": "deb [arch=amd64] http://docker.example/debian bookworm stable\n",
    "zzz-vendor.sources": """Types: deb
URIs: http://vendor.example/apt
Suites: bookworm
Components: main
""",
    "off.sources": """Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm-updates
Components: main
""",
}


def _mirrors(
    folder: Path,
    sources: dict[str, str],
    mmdebstrap: str = "/dev/null",
    **settings: str,
) -> list[str]:
    parts = folder / "sources"
    parts.mkdir()
    for name, text in sources.items():
        (parts / name).write_text(text, encoding="ascii")
    configuration = folder / "apt.conf"
    configuration.write_text(
        f'Dir::Etc::sourcelist "/dev/null"; Dir::Etc::sourceparts "{parts}";\n'
        f'Dir::State "{folder}"; Dir::State::status "/dev/null";\n',
        encoding="ascii",
    )
    # The root of tools has mmdebstrap, which a host may lack.
    hide = f"mount --bind {mmdebstrap} /usr/bin/mmdebstrap"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f"{hide} && exec {TOOLROOT / 'mirrors'}"],
        env={"PATH": "/usr/bin:/bin", "APT_CONFIG": str(configuration)} | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_mirrors(tmp_path):
    """Debian's mirror comes first of those that apt knows; some are no candidates."""
    assert _mirrors(tmp_path, SOURCES) == [
        "http://mirror.example/debian/",
        "http://vendor.example/apt/",
    ]


def test_mirror_of_mmdebstrap(tmp_path):
    """The one that mmdebstrap would use comes last."""
    program = tmp_path / "mmdebstrap"
    program.write_text('my $mirror = "http://debian.example/debian";\n')
    found = _mirrors(tmp_path, SOURCES, str(program))
    assert found[1:] == ["http://vendor.example/apt/", "http://debian.example/debian/"]


def test_named_mirror(tmp_path):
    """A mirror that the user names is the only one."""
    named = "http://named.example/debian"
    assert _mirrors(tmp_path, SOURCES, CC_SWIOTLB_MIRROR=named) == [named]


def test_no_mirrors(tmp_path):
    """If apt knows no mirror, none is made up."""
    assert not _mirrors(tmp_path, {"docker.list": SOURCES["docker.list"]})


@pytest.mark.parametrize(
    "offered,taken,words",
    [
        ("7.5 7.4 7.3", "7.5\n", ""),
        ("7.4 7.3", "7.4\n", "does not offer Linux 7.5 now, taking 7.4"),
        ("6.12", "", "offers no Linux 7.5 7.4 7.3 now: KSRC="),
    ],
)
def test_series(tmp_path, offered, taken, words):
    """The newest supported series that Debian offers is taken, and named."""
    fake = tmp_path / "apt-cache"
    fake.write_text(
        '#!/bin/sh\nfor series in $OFFERED; do\n[ "$2" != "linux-source-$series" ] ||'
        " echo Version: $series.1\ndone\n",
        encoding="ascii",
    )
    fake.chmod(0o755)
    done = subprocess.run(
        [str(TOOLROOT / "series"), "7.5", "7.4", "7.3"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "OFFERED": offered},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == taken
    assert words in done.stderr and bool(words) == bool(done.stderr)


@pytest.mark.parametrize(
    "offered,taken",
    [
        ({"linux-source-7.4": "7.4.1", "linux-source-7.3": "7.3.4~b"}, "7.4.1"),
        ({"linux-source-7.3": "7.3.4~b"}, "7.3.4_b"),
    ],
)
def test_source(tmp_path, monkeypatch, offered, taken):
    """The newest supported source of the root of tools is unpacked, and named."""
    monkeypatch.setenv("CC_SWIOTLB_CACHE", str(tmp_path))
    monkeypatch.delenv("KSRC", raising=False)
    monkeypatch.setattr(source.repository, "series", lambda: ["7.3", "7.4"])
    monkeypatch.setattr(source.toolchain, "version", offered.get)
    (tmp_path / "locks").mkdir()
    (tmp_path / "source" / taken).mkdir(parents=True)
    found = source.pristine()
    assert (found.name, found.folder) == (taken, tmp_path / "source" / taken)
    assert taken.replace("_", "~") in found.title


def test_no_source(tmp_path, monkeypatch):
    """Without any, the user is told about KSRC=."""
    monkeypatch.setenv("CC_SWIOTLB_CACHE", str(tmp_path))
    monkeypatch.delenv("KSRC", raising=False)
    monkeypatch.setattr(source.toolchain, "version", lambda _: None)
    (tmp_path / "locks").mkdir()
    with pytest.raises(Failure, match="KSRC="):
        source.pristine()


LISTED = (
    ("bindgen", "0.71.1-6"),
    ("binutils", "2.44-3"),
    ("clang-19", "1:19.1.7-3+b1"),
    ("cpp-14-x86-64-linux-gnu", "14.2.0-19"),
    ("fio", "3.39-1"),
    ("gcc-14", "14.2.0-19"),
    ("git", "1:2.47.3-0+deb13u1"),
    ("libclang1-19", "1:19.1.7-3+b1"),
    ("libelf1t64:amd64", "0.192-4"),
    ("libllvm19:amd64", "1:19.1.7-3+b1"),
    ("libstd-rust-dev:amd64", "1.85.1+dfsg1-1"),
    ("lld:amd64", "1:19.0-63"),
    ("makedev", "2.3.1-97"),
    ("make", "4.4.1-2"),
    ("pahole", "1.30-1"),
    ("qemu-system-x86", "1:11.1.3-1"),
    ("rust-src", "1.85.1+dfsg1-1"),
    ("rustc", "1.85.1+dfsg1-1"),
)
# Packages of these that no bit of a kernel comes from.
NEUTRAL = ("fio", "git", "makedev", "qemu-system-x86")


def _identity(listed: dict[str, str]) -> str:
    done = subprocess.run(
        [str(TOOLROOT / "identity")],
        input="".join(f"{name}\t{version}\n" for name, version in listed.items()),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or done.stderr.strip()


@pytest.mark.parametrize("name", dict(LISTED))
def test_identity(name):
    """A new version changes the identity if kernels come from it, and only then."""
    listed = dict(LISTED)
    first = _identity(listed)
    assert len(first) == 16, first
    assert _identity(dict(reversed(LISTED))) == first
    listed[name] += "+1"
    assert (_identity(listed) == first) == (name in NEUTRAL)


def test_identity_grows_with_no_test_package():
    """One more package, which no bit of a kernel comes from, changes nothing."""
    listed = dict(LISTED)
    assert _identity(listed | {"mmdebstrap": "1.5.7-1"}) == _identity(listed)


@pytest.mark.parametrize("name", ["bindgen", "gcc-14", "make"])
def test_no_identity(name):
    """A list without a compiler has no identity, so that no root is made."""
    listed = {key: value for key, value in LISTED if key != name}
    assert _identity(listed) == f"identity: there is no {name.partition('-')[0]}"


def test_identity_is_that_of_the_root():
    """The root of tools, which is what builds kernels, has the identity it says."""
    listed = dict(
        line.split("\t")
        for line in toolchain.PACKAGES.read_text(encoding="utf-8").splitlines()
    )
    assert _identity(listed) == toolchain.identity()


def test_owners_are_faked(tmp_path):
    """Under fakeowner every change of an owner succeeds and does nothing."""
    file = tmp_path / "file"
    file.touch()
    before = file.stat()
    with contextlib.suppress(PermissionError):
        os.chown(file, before.st_uid, before.st_gid)
    for words in (["chown", "5:6", str(file)], ["chown", "-h", "5:6", str(file)]):
        subprocess.run([str(TOOLROOT / "fakeowner"), *words], check=True)
    assert file.stat() == before
