# SPDX-License-Identifier: GPL-2.0
"""The kernel of `make deb`, as packages: Debian's configuration for clouds, trimmed.

tools/deb says what is in it.  The packages for users know nothing of the emulated
confidential guest.  Those for tests are made from the same objects, except for the few
that do, in the same tree and folder: they take only minutes, and so do the next
packages for users.
"""

import dataclasses
import lzma
import os
import re
import shutil
import subprocess
from pathlib import Path

from lib import cache, kernel, progress, repository, source, toolchain
from lib.failure import Failure

PARTS = repository.ROOT / "tools" / "deb"
FORM = repository.ROOT / "samples" / "forms" / "cc_swiotlb.config"
MODULES = PARTS / "modules"
# The configuration of Debian's kernel for clouds, in the package linux-config-7.3.
CONFIGURED = "/usr/src/linux-config-{series}/config.amd64_none_cloud-amd64.xz"
NOBODY = {
    "DEBFULLNAME": "cc_swiotlb developers",
    "DEBEMAIL": "linux-coco@lists.linux.dev",
}

# The system that the package is installed into: what the tests need.
APT_SOURCES = Path("/etc/apt/sources.list.d/tools.list")
APT_MIRROR = Path("/etc/apt/apt.conf.d/mirror")
PACKAGES = ("bpftrace", "busybox-static", "e2fsprogs", "fio", "initramfs-tools")
PACKAGES += ("udev", "xfsprogs", "zstd")
LABEL = "cc_swiotlb"
IMAGE_SIZE = "2G"
INIT = "/usr/lib/ccvm/init"
FAKEOWNER = repository.TESTING / "toolroot" / "fakeowner"
GUEST = repository.TESTING / "guest"
KEY = "certs/signing_key.pem"
STAMP = ".stamp"
LOG = "mmdebstrap.log"


def fragments(test: bool) -> list[Path]:
    """The fragments that are laid over Debian's configuration; later ones win."""
    return [FORM, PARTS / "guest.config"] + [PARTS / "test.config"] * test


def modules() -> list[str]:
    """The modules that the kernel has, besides those that they need."""
    lines = MODULES.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def debian_config(tree: source.Source) -> bytes:
    """Debian's configuration of this series."""
    series = source.series_of(tree.folder)
    path = Path(CONFIGURED.format(series=series))
    try:
        return lzma.decompress(path.read_bytes())
    except FileNotFoundError:
        raise Failure(
            f"the root of tools lacks Debian's configuration of Linux {series}; try "
            "make setup REFRESH=1"
        ) from None


def _key(tree: source.Source, test: bool) -> str:
    return cache.key(
        tree.name,
        repository.kernel_inputs(),
        toolchain.identity(),
        debian_config(tree),
        modules(),
        Path(__file__).read_bytes(),
        test,
    )


def _make(tree: Path, folder: Path, *words: str) -> list[str]:
    command = ["make", "--no-print-directory", "-C", str(tree), f"O={folder}"]
    return [*command, *toolchain.make_arguments(toolchain.GCC), "ARCH=x86", *words]


def _run(words: list[str], what: str, lines: str = "", **settings: str) -> str:
    done = subprocess.run(
        words,
        env=toolchain.environment() | settings,
        input=lines,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failure(f"{done.stdout[-2000:]}\n{what} failed")
    return done.stdout


def configure(tree: source.Source, patched: Path, folder: Path, test: bool) -> None:
    """Makes .config: Debian's, with what it lacks, without what no cloud needs."""
    config = folder / ".config"
    config.write_bytes(debian_config(tree))
    merge = [str(patched / "scripts/kconfig/merge_config.sh"), "-m", "-O", str(folder)]
    _run([*merge, str(config), *map(str, fragments(test))], "merge_config.sh")
    _run(_make(patched, folder, "olddefconfig"), "olddefconfig")
    listed = folder / ".cc_swiotlb-modules"
    listed.write_text("\n".join(modules()) + "\n")
    # Empty lines for answers: the defaults.
    words = _make(patched, folder, "localmodconfig")
    said = _run(words, "localmodconfig", "\n" * 1000, LSMOD=str(listed))
    unknown = re.findall(r"^(\S+) config not found", said, re.M)
    if unknown:
        raise Failure(f"{MODULES}: no configuration has {', '.join(unknown)}")
    got = kernel.settings_of([config])
    refused = [
        f"    {name}={value} (it is {got.get(name, 'n')})"
        for name, value in sorted(kernel.settings_of(fragments(test)).items())
        if got.get(name, "n") != value
    ]
    if refused:
        raise Failure("the kernel's Kconfig does not give\n" + "\n".join(refused))


def _version(tree: source.Source, patched: Path, folder: Path) -> str:
    """The version of the packages: later than Debian's, if the sources are Debian's."""
    debian = toolchain.version(f"linux-source-{source.series_of(tree.folder)}")
    if debian and not os.environ.get("KSRC"):
        return f"{debian}+ccswiotlb"
    return _run(_make(patched, folder, "-s", "kernelversion"), "make").strip() + "-1"


def build(test: bool) -> list[Path]:
    """The packages, built unless they are up to date."""
    tree = source.pristine()
    key = _key(tree, test)
    base = cache.root() / "build" / toolchain.identity() / tree.name / "deb"
    place = base / ("test" if test else "packages")

    def built() -> list[Path] | None:
        stamp = place / STAMP
        if not stamp.exists() or stamp.read_text() != key:
            return None
        return sorted(place.glob("*.deb"))

    with cache.lock("kernel") as outer, cache.lock("kernel-deb") as inner:
        return built() or _build(tree, base, place, key, [outer, inner])


def _build(
    tree: source.Source, base: Path, place: Path, key: str, locks: list[int]
) -> list[Path]:
    test = place.name == "test"
    folder = base / "kernel"
    folder.mkdir(parents=True, exist_ok=True)
    options = ["--test"] * test
    patched = kernel.update_tree(tree, f"{tree.name}-deb", *options)
    with progress.Step("configuring it as Debian does"):
        configure(tree, patched, folder, test)
    nothing = base / "dpkg"
    (nothing / "info").mkdir(parents=True, exist_ok=True)
    (nothing / "status").touch()
    # The packages appear beside the build folder.
    for old in base.glob("linux-*.*"):
        old.unlink()
    kernel.run_make(
        "as packages" + " for tests" * test,
        _make(patched, folder, "bindeb-pkg"),
        folder,
        locks,
        KDEB_PKGVERSION=_version(tree, patched, folder),
        KDEB_CHANGELOG_DIST="unstable",
        # A package with debugging symbols is large and slow to make.
        DEB_BUILD_PROFILES="pkg.linux-upstream.nokerneldbg",
        # The root of tools has all build dependencies, but no list of its packages.
        DPKG_FLAGS=f"--no-check-builddeps --admindir={nothing}",
        **NOBODY,
    )
    # No other module must be signed with this key.
    (folder / KEY).unlink(missing_ok=True)
    with cache.new_folder(place) as new:
        for package in base.glob("linux-*.deb"):
            package.rename(new / package.name)
        (new / STAMP).write_text(key)
    return sorted(place.glob("*.deb"))


def image_of(packages: list[Path]) -> Path:
    """The package that has the kernel."""
    (found,) = [each for each in packages if each.name.startswith("linux-image-")]
    return found


@dataclasses.dataclass(frozen=True)
class Installed(kernel.Kernel):
    """The kernel as it is installed in a Debian system, with its own initramfs."""

    @property
    def image(self) -> Path:
        """The image that QEMU boots."""
        return self.folder / "vmlinuz"

    @property
    def initramfs(self) -> Path:
        """The initramfs that the installation of the package has made."""
        return self.folder / "initrd"

    @property
    def arguments(self) -> str:
        """The arguments of the kernel: its root, and the init there."""
        return f"root=LABEL={LABEL} rw init={INIT}"

    @property
    def disk(self) -> list[str]:
        """QEMU's arguments for the disk, on which nothing stays written."""
        file = f"file={self.folder / 'disk'},if=none,id=root,format=raw,snapshot=on"
        device = "virtio-blk-pci,drive=root,disable-legacy=on,iommu_platform=on"
        return ["-drive", file, "-device", device]


def installed() -> Installed:
    """A Debian system with the package for tests, made unless there is one."""
    package = image_of(build(True))
    parts = [*GUEST.iterdir(), Path(__file__), APT_SOURCES]
    key = cache.key(cache.content_key([package, *sorted(parts)]))
    place = cache.root() / "deb" / key
    with cache.lock("kernel-deb-root"):
        if not place.exists():
            shutil.rmtree(place.parent, ignore_errors=True)
            with cache.new_folder(place) as new, cache.scratch(place.parent) as scratch:
                _install(package, scratch / "root", new)
    return Installed("deb", place, Path())


def _install(package: Path, root: Path, place: Path) -> None:
    suite = APT_SOURCES.read_text(encoding="utf-8").split("\n")[0].split()[3]
    script = "etc/initramfs-tools/scripts/init-bottom/ccvm"
    hooks = [
        f'install -D -m 755 {GUEST}/init "$1{INIT}"',
        f'install -D -m 755 {GUEST}/init-bottom "$1/{script}"',
        # The applets of busybox that init needs, where Debian has no program of that
        # name.
        'for name in $("$1/usr/bin/busybox" --list); do'
        ' [ -e "$1/usr/bin/$name" ] || [ -e "$1/usr/sbin/$name" ] ||'
        ' ln -s busybox "$1/usr/bin/$name"; done',
        f'cp {package} "$1/kernel.deb"',
        'chroot "$1" dpkg --install /kernel.deb && rm "$1/kernel.deb"',
    ]
    words = ["mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory"]
    words += [f"--include={','.join(PACKAGES)}", '--aptopt=APT::Sandbox::User "root"']
    if APT_MIRROR.exists() and APT_MIRROR.stat().st_size:
        words.append(f"--aptopt={APT_MIRROR}")
    words += [f"--customize-hook={hook}" for hook in hooks]
    words += [suite, str(root), str(APT_SOURCES)]
    with progress.Step("installing the package in a Debian system"):
        # All of it belongs to root, as in the root of tools.
        said = _run([str(FAKEOWNER), *words], "installing the package")
        (place / LOG).write_text(said)
        for name, pattern in (("vmlinuz", "vmlinuz-*"), ("initrd", "initrd.img-*")):
            found = sorted(root.glob(f"boot/{pattern}"))
            if len(found) != 1:
                raise Failure(f"{said[-2000:]}\nno {pattern} was installed in /boot")
            shutil.copyfile(found[0], place / name)
        make = ["mke2fs", "-q", "-t", "ext4", "-L", LABEL, "-d", str(root)]
        _run([*make, str(place / "disk"), IMAGE_SIZE], "making a disk of it")
