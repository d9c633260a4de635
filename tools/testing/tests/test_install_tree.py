# SPDX-License-Identifier: GPL-2.0
"""tools/install-tree: all of it, or nothing, and twice is once."""

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import vm
from lib import source

PATCHES = sorted(vm.ROOT.glob("patches/7.3/*.patch"))
# Lines of the kernel that the hooks add or change.
TOUCHED = 60
TOOL = vm.ROOT / "tools" / "install-tree"


@vm.once
def _pristine() -> Path:
    return source.pristine().folder


def _touched() -> set[str]:
    names = {"Makefile"}
    folders = (vm.ROOT, vm.TESTING)
    for patch in [path for each in folders for path in each.glob("patches/*/*.patch")]:
        text = patch.read_text(encoding="utf-8")
        names.update(re.findall(r"^(?:---|\+\+\+) [ab]/(\S+)", text, re.M))
    return names


@pytest.fixture
def tree(tmp_path):
    """Of a pristine tree, the files that the patches touch."""
    folder = tmp_path / "linux"
    for name in _touched():
        if (_pristine() / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(_pristine() / name, folder / name)
    return folder


def _install(tree: Path, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(TOOL), *options, str(tree)],
        capture_output=True,
        text=True,
        check=False,
    )


def _contents(tree: Path) -> dict[str, str]:
    return {
        str(path.relative_to(tree)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(tree.rglob("*"))
        if path.is_file()
    }


def test_little_is_touched():
    """Existing code is changed in few places, but for the trace event and documents."""
    series = {path.name[:4]: path.read_text(encoding="utf-8") for path in PATCHES}
    seam = series["0002"]
    assert "swiotlb: let cc_swiotlb serve bounced mappings" in seam
    files = re.split(r"^diff --git ", seam, flags=re.M)[1:]
    old = [text for text in files if "new file mode" not in text]
    added = [re.findall(r"^\+(?!\+\+ ).+", text, re.M) for text in old]
    assert len(old) > 5
    assert sum(map(len, added)) <= TOUCHED


def test_install(tree):
    """Everything the kernel build needs is there, and wired in."""
    done = _install(tree)
    assert done.returncode == 0, done.stderr
    own = tree / "kernel" / "dma" / "cc_swiotlb"
    for name in ("Kconfig", "Makefile", "cc_swiotlb.rs"):
        assert (own / name).is_file(), name
    assert "cc_swiotlb" in (tree / "kernel/dma/Kconfig").read_text()
    assert "cc_swiotlb" in (tree / "kernel/dma/Makefile").read_text()
    assert not (tree / "arch/x86/coco/emul.c").exists(), "a patch for tests only"


def test_twice(tree):
    """The second time changes nothing, and says so with success."""
    assert _install(tree).returncode == 0
    first = _contents(tree)
    done = _install(tree)
    assert done.returncode == 0, done.stderr
    assert _contents(tree) == first


def test_remove(tree):
    """What was put in can be taken out, to the byte."""
    before = _contents(tree)
    assert _install(tree, "--test").returncode == 0
    done = _install(tree, "--remove")
    assert done.returncode == 0, done.stderr
    assert _contents(tree) == before


@pytest.mark.parametrize("patch", PATCHES, ids=[path.name for path in PATCHES])
def test_conflict(tree, patch):
    """This patch does not apply: an error that names it, nothing changed."""
    names = re.findall(r"^--- a/(\S+)", patch.read_text(encoding="utf-8"), re.M)
    # Of what it touches, the last file: all before it could be applied.
    victim = tree / names[-1]
    victim.write_text(victim.read_text()[:100])
    before = _contents(tree)
    done = _install(tree)
    assert done.returncode != 0
    assert ".patch" in done.stderr and names[-1] in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert _contents(tree) == before


@pytest.mark.parametrize("version", ["6 12", "8 0"])
def test_other_series(tree, version):
    """A tree of a series without patches is refused by name."""
    major, minor = version.split()
    makefile = tree / "Makefile"
    text = makefile.read_text()
    for name, value in (("VERSION", major), ("PATCHLEVEL", minor)):
        text = re.sub(rf"^{name} = .*", f"{name} = {value}", text, flags=re.M)
    makefile.write_text(text)
    before = _contents(tree)
    done = _install(tree)
    assert done.returncode != 0
    assert f"{major}.{minor}" in done.stderr and "7.3" in done.stderr, done.stderr
    assert _contents(tree) == before


def test_no_tree(tmp_path):
    """A folder that is no kernel tree is refused."""
    done = _install(tmp_path)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
