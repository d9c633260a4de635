# SPDX-License-Identifier: GPL-2.0
"""tools/install-tree: it does all or nothing, and a second run changes nothing."""

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
    """The files of a pristine tree that the patches touch."""
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
    """Existing code changes in few places, apart from the trace event and documents."""
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
    """An installation can be removed, to the byte."""
    before = _contents(tree)
    assert _install(tree, "--test").returncode == 0
    done = _install(tree, "--remove")
    assert done.returncode == 0, done.stderr
    assert _contents(tree) == before


@pytest.mark.parametrize("patch", PATCHES, ids=[path.name for path in PATCHES])
def test_conflict(tree, patch):
    """If this patch does not apply, an error names it, and nothing is changed."""
    names = re.findall(r"^--- a/(\S+)", patch.read_text(encoding="utf-8"), re.M)
    # The last file that it touches: all files before it could be patched.
    victim = tree / names[-1]
    victim.write_text(victim.read_text()[:100])
    before = _contents(tree)
    done = _install(tree)
    assert done.returncode != 0
    assert ".patch" in done.stderr and names[-1] in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert _contents(tree) == before


# Patches that stand on their own: Kconfig, or nothing, ties others to them.
OPTIONAL = [path for path in PATCHES if path.name[:4] >= "0004"]


@pytest.mark.parametrize("patch", OPTIONAL, ids=[path.name for path in OPTIONAL])
def test_left_out(tree, tmp_path, patch):
    """Without this patch the others apply, and so do they without all of these."""
    copy = tmp_path / "checkout"
    shutil.copytree(vm.ROOT / "tools", copy / "tools", symlinks=True)
    shutil.copytree(vm.ROOT / "patches", copy / "patches")
    for others in ([], [each for each in OPTIONAL if each != patch]):
        for path in [patch, *others]:
            (copy / path.relative_to(vm.ROOT)).unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, str(copy / "tools" / "install-tree"), str(tree)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        applied = (tree / "kernel/dma/cc_swiotlb/.installed/record.json").read_text()
        assert patch.name not in applied and PATCHES[1].name in applied


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


def _write_patches(out: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(vm.ROOT / "tools/make-patches"), "7.3", str(out)],
        capture_output=True,
        text=True,
        check=False,
    )


def _modes(tree: Path) -> dict[str, int]:
    files = (path for path in tree.rglob("*") if path.is_file())
    return {str(path.relative_to(tree)): path.stat().st_mode & 0o111 for path in files}


def test_patches_make_the_same_tree(tree, tmp_path):
    """The numbered patches, applied by patch(1), make what install-tree makes."""
    patched, out = tmp_path / "patched", tmp_path / "out"
    shutil.copytree(tree, patched)
    assert _write_patches(out).returncode == 0
    patches = sorted(out.glob("*.patch"))
    assert len(patches) == len(PATCHES) + 1
    for patch in patches:
        done = subprocess.run(
            ["patch", "-p1", "--fuzz=0", "--no-backup-if-mismatch", "-i", str(patch)],
            cwd=patched,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        assert not re.search(r"\boffset \d|with fuzz \d", done.stdout), done.stdout
    assert _install(tree).returncode == 0
    shutil.rmtree(tree / "kernel/dma/cc_swiotlb/.installed")
    assert _contents(patched) == _contents(tree)
    assert _modes(patched) == _modes(tree)


def test_patches_are_reproducible(tmp_path):
    """The same sources always give the same bytes, also in a folder that has them."""
    for out in ("one", "two", "two"):
        assert _write_patches(tmp_path / out).returncode == 0
    assert _contents(tmp_path / "one") == _contents(tmp_path / "two")


def test_patches_spare_foreign_files(tmp_path):
    """A folder with anything else in it is left alone."""
    (tmp_path / "0001-mine.txt").write_text("mine")
    done = _write_patches(tmp_path)
    assert done.returncode and "0001-mine.txt" in done.stderr
    assert _contents(tmp_path).keys() == {"0001-mine.txt"}


def test_fragment_names_options_that_exist():
    """The configuration fragment has the options of Kconfig, with their defaults."""
    kconfig = (vm.ROOT / "Kconfig").read_text(encoding="utf-8")
    entries = re.findall(r'config (CC_\w+)\n\tstring .*\n\tdefault "(.*)"', kconfig)
    text = (vm.ROOT / "samples/forms/cc_swiotlb.config").read_text(encoding="utf-8")
    found = re.findall(r'CONFIG_(CC_SWIOTLB_\w+)="(.*)"', text)
    assert len(found) == 4 and found == entries
