# SPDX-License-Identifier: GPL-2.0
"""The test kernels: one patched source tree, one build folder for each flavour.

A flavour is a list of configuration fragments in tools/testing/configs/.  The inputs of
a build are kept in its folder as a stamp; a build whose stamp is right is not started
again.

Locks, in this order: "kernel" is held while anything is built, so that two
checkouts that share a cache take turns; "kernel-<flavour>" is held as well
while that build folder changes, and while its image is looked at or copied.
"""

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from lib import cache, progress, repository, source, toolchain
from lib.failure import Failure


@dataclasses.dataclass(frozen=True)
class Flavour:
    """A kind of kernel: configuration fragments, of which later ones win; machine."""

    fragments: tuple[str, ...]
    arch: str = "x86"
    image: str = "arch/x86/boot/bzImage"
    compiler: str = toolchain.CLANG
    """Of the C code."""
    strict: bool = False
    """No warning at all, of whatever file; otherwise none of our own."""

    def arguments(self) -> list[str]:
        """The arguments for make."""
        return [*toolchain.make_arguments(self.compiler), f"ARCH={self.arch}"]

    def targets(self) -> list[str]:
        """The targets for make."""
        settings = settings_of(fragments_of(self))
        modules = ["modules"] * (settings.get("CONFIG_MODULES") == "y")
        return [Path(self.image).name, *modules]


def _native(*fragments: str) -> Flavour:
    """A kernel that runs as a process."""
    return Flavour(("uml", *fragments), "um", "linux")


def _adopted(*fragments: str, compiler: str = toolchain.CLANG) -> Flavour:
    """A kernel as an adopter configures it."""
    names = ("base", "guest", "strict", *fragments)
    return Flavour(names, compiler=compiler, strict=True)


# The kernels of `make check-configs`: settings that do not hide each other share one.
# The last kernel is the one before it, built once more in another folder.
CONFIGS = {
    "gcc": _adopted("gcc", compiler=toolchain.GCC),
    "small": _adopted("small"),
    "one-node": _adopted("one-node"),
    "one-cpu": _adopted("one-cpu"),
    "one-cpu-again": _adopted("one-cpu"),
}

FLAVOURS = {
    "guest": Flavour(("base", "guest")),
    "debug": Flavour(("base", "guest", "debug")),
    "kcsan": Flavour(("base", "guest", "kcsan")),
    "uml": _native("uml-dynamic"),
    "uml-static": _native(),
    "uml-smp": _native("uml-dynamic", "uml-smp"),
    **CONFIGS,
}
# Flavours that a virtual machine boots.
BOOTED = [name for name, flavour in FLAVOURS.items() if flavour.arch == "x86"]

STAMP = ".cc_swiotlb-stamp"
CONFIG_STAMP = ".cc_swiotlb-config-stamp"
LOG = "build.log"


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel that is built."""

    flavour: str
    folder: Path
    source: Path

    @property
    def image(self) -> Path:
        """The image that QEMU boots, or that runs as a process."""
        return self.folder / FLAVOURS[self.flavour].image

    def make_arguments(self) -> list[str]:
        """The arguments for make to build a module for it."""
        return FLAVOURS[self.flavour].arguments()


def fragments_of(flavour: Flavour) -> list[Path]:
    """The configuration fragments of a flavour; later ones win."""
    folder = repository.TESTING / "configs"
    return [folder / f"{name}.config" for name in flavour.fragments]


def fragments(flavour: str) -> list[Path]:
    """The configuration fragments of a flavour, by its name."""
    return fragments_of(FLAVOURS[flavour])


def settings_of(paths: list[Path]) -> dict[str, str]:
    """The settings that fragments ask for: symbol to value, "n" for not set."""
    wanted = {}
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            assigned = re.fullmatch(r"(CONFIG_\w+)=(.*?)\s*", line)
            unset = re.fullmatch(r"# (CONFIG_\w+) is not set\s*", line)
            if assigned:
                wanted[assigned.group(1)] = assigned.group(2)
            elif unset:
                wanted[unset.group(1)] = "n"
            elif line.strip() and not line.startswith("#"):
                raise Failure(f"{path}: cannot read this line: {line}")
    return wanted


def _folder(tree: source.Source, flavour: str) -> Path:
    return cache.root() / "build" / toolchain.identity() / tree.name / flavour


def _key(tree: source.Source, flavour: str) -> str:
    return cache.key(
        tree.name,
        repository.kernel_inputs(),
        toolchain.identity(),
        settings_of(fragments(flavour)),
        FLAVOURS[flavour].arguments(),
    )


def _sharing(tree: source.Source) -> list[str]:
    """The options of cp by which a copy of the tree shares disk space with it."""
    # A user may change files in place; tools/install-tree does not.
    if cache.root() in tree.folder.parents:
        return ["--link"]
    return ["--reflink=auto"]


def update_tree(tree: source.Source, name: str, *options: str) -> Path:
    """A patched tree, made if it does not exist, brought up to date if it does.

    The caller holds the lock "kernel".
    """
    patched = cache.root() / "tree" / name
    if not patched.exists():
        with cache.new_folder(patched) as folder:
            with progress.Step("copying the kernel source"):
                subprocess.run(
                    ["cp", "--archive", *_sharing(tree), f"{tree.folder}/."]
                    + [str(folder)],
                    check=True,
                )
            shutil.rmtree(folder / ".git", ignore_errors=True)
    tool = repository.ROOT / "tools" / "install-tree"
    result = subprocess.run(
        [sys.executable, str(tool), *options, str(patched)],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise Failure(result.stderr.strip())
    progress.note(result.stdout.strip())
    return patched


def _make(tree: Path, folder: Path, flavour: str) -> list[str]:
    return [
        "make",
        "--no-print-directory",
        "-C",
        str(tree),
        f"O={folder}",
        *FLAVOURS[flavour].arguments(),
    ]


def _configure(tree: Path, folder: Path, flavour: str) -> None:
    """Makes .config from the fragments and checks that it holds all they say."""
    wanted = settings_of(fragments(flavour))
    # Files that a configuration depends on besides the fragments.
    kconfig = [tree / "Makefile", tree / "kernel/dma/cc_swiotlb/Kconfig"]
    kconfig += [tree / name for name in _own_files(tree) if "Kconfig" in name]
    stamp = cache.key(
        sorted(wanted.items()),
        cache.content_key(sorted(path for path in kconfig if path.exists())),
        toolchain.identity(),
    )
    config = folder / ".config"
    stamp_file = folder / CONFIG_STAMP
    if config.exists() and stamp_file.exists() and stamp_file.read_text() == stamp:
        return
    base = folder / ".cc_swiotlb-fragments"
    base.write_text("".join(f"{name}={value}\n" for name, value in wanted.items()))
    previous = config.read_bytes() if config.exists() else None
    stamp_file.unlink(missing_ok=True)
    result = subprocess.run(
        [*_make(tree, folder, flavour), f"KCONFIG_ALLCONFIG={base}", "allnoconfig"],
        env=toolchain.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode:
        raise Failure(f"{result.stdout[-2000:]}\nconfiguring flavour {flavour} failed")
    got = settings_of([config])
    refused = [
        f"    {name}={value} (it is {got.get(name, 'n')})"
        for name, value in sorted(wanted.items())
        if got.get(name, "n") != value
    ]
    if refused:
        raise Failure(
            f"the kernel's Kconfig does not give flavour {flavour} what its fragments "
            "ask for:\n" + "\n".join(refused)
        )
    if config.read_bytes() == previous:
        progress.note(f"configuration of flavour {flavour} is unchanged")
    stamp_file.write_text(stamp)


def _own_files(tree: Path) -> list[str]:
    """Files of the tree that this project wrote or changed, relative to it."""
    patches = (tree / "kernel/dma/cc_swiotlb/.installed").glob("*.patch")
    found = ["kernel/dma/cc_swiotlb/"]
    for patch in patches:
        found += re.findall(r"^\+\+\+ b/(\S+)", patch.read_text(), re.MULTILINE)
    return found


def warnings_of(log: str) -> list[str]:
    """The warnings of compilers and other tools, with their places."""
    found = []
    lines = log.splitlines()
    for index, line in enumerate(lines):
        text = line
        if re.match(r"warning(\[\w+\])?:", line):
            # rustc names the place on one of the following, indented lines.
            near = lines[index + 1 : index + 3]
            text += "".join(each for each in near if each.startswith(" "))
        elif "warning:" not in line.lower():
            continue
        found.append(text)
    return found


def own_warnings(log: str, tree: Path) -> list[str]:
    """The warnings about files of this project."""
    # The linker's and objtool's warnings name functions instead of files.
    own = [*_own_files(tree), "cc_swiotlb"]
    return [text for text in warnings_of(log) if any(name in text for name in own)]


def _forget(folder: Path, tree: Path) -> None:
    """Removes this project's objects, so that they are compiled again next time."""
    for name in _own_files(tree):
        path = folder / name
        if name.endswith("/"):
            for object_file in path.rglob("*.o"):
                object_file.unlink(missing_ok=True)
        elif path.suffix in (".c", ".rs"):
            path.with_suffix(".o").unlink(missing_ok=True)
    # Other warnings appear only when everything is linked.
    for name in ("vmlinux.o", "vmlinux"):
        (folder / name).unlink(missing_ok=True)


def _errors(text: str) -> str:
    """The part of a build log that says why it failed."""
    lines = text.splitlines()
    wanted = re.compile(r"error(\[\w+\])?:|\*\*\*|undefined symbol|FAILED")
    hits = [index for index, line in enumerate(lines) if wanted.search(line)]
    if not hits:
        return "\n".join(lines[-20:])
    first = max(0, hits[0] - 2)
    return "\n".join(lines[first : first + 40])


def run_make(
    title: str,
    command: list[str],
    folder: Path,
    locks: list[int],
    **settings: str,
) -> str:
    """Runs make in a build folder and shows how far it is; returns its output."""
    log = folder / LOG
    history = folder / ".cc_swiotlb-steps"
    expected = int(history.read_text()) if history.exists() else 0

    def done() -> int:
        with open(log, "rb") as file:
            return sum(1 for _ in file)

    def detail() -> str:
        count = done()
        total = f" of about {expected}" if expected >= count > 0 else ""
        return f"{count}{total} steps"

    step = progress.Step(f"building the kernel, {title}", detail)
    with open(log, "wb") as output, step:
        # One more than there are CPUs: some wait for a disk.
        jobs = len(os.sched_getaffinity(0)) + 1
        process = subprocess.Popen(
            [*command, f"-j{jobs}"],
            env=toolchain.environment() | settings,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=locks,
        )
        try:
            status = process.wait()
        except BaseException:
            # Signal all of them: make removes files that are half done.
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise
    text = log.read_text(encoding="utf-8", errors="replace")
    if status:
        raise Failure(f"{_errors(text)}\nthe kernel, {title}, did not build, see {log}")
    if done() > expected:
        history.write_text(str(done()))
    return text


def _compile(tree: Path, folder: Path, flavour: str, locks: list[int]) -> None:
    title = f"flavour {flavour}"
    command = [*_make(tree, folder, flavour), *FLAVOURS[flavour].targets()]
    text = run_make(title, command, folder, locks)
    # With "strict" the compilers stop at a warning; this is for all other tools.
    strict = FLAVOURS[flavour].strict
    warnings = warnings_of(text) if strict else own_warnings(text, tree)
    if warnings:
        _forget(folder, tree)
        where = "" if strict else " in our own files"
        raise Failure(
            "\n".join(warnings) + f"\n{title}: warnings{where}, see {folder / LOG}"
        )
    # Without a module in the configuration there is no Module.symvers yet.
    symvers = folder / "Module.symvers"
    if "modules" in FLAVOURS[flavour].targets() and not symvers.exists():
        shutil.copy2(folder / "vmlinux.symvers", symvers)


def current(flavour: str) -> Kernel | None:
    """The kernel if it is built and up to date."""
    tree = source.pristine()
    folder = _folder(tree, flavour)
    kernel = Kernel(flavour, folder, cache.root() / "tree" / tree.name)
    stamp = folder / STAMP
    if not kernel.image.exists() or not stamp.exists():
        return None
    return kernel if stamp.read_text() == _key(tree, flavour) else None


def build(flavour: str) -> Kernel:
    """Builds the kernel of a flavour unless it is up to date."""
    own_lock = f"kernel-{flavour}"
    with cache.lock(own_lock):
        kernel = current(flavour)
    if kernel:
        return kernel
    with cache.lock("kernel") as outer, cache.lock(own_lock) as inner:
        # Another process may have built it in the meantime.
        return current(flavour) or _build(flavour, [outer, inner])


def _build(flavour: str, locks: list[int]) -> Kernel:
    started = time.monotonic()
    tree = source.pristine()
    key = _key(tree, flavour)
    folder = _folder(tree, flavour)
    folder.mkdir(parents=True, exist_ok=True)
    stamp = folder / STAMP
    stamp.unlink(missing_ok=True)
    patched = update_tree(tree, tree.name, "--test")
    _configure(patched, folder, flavour)
    _compile(patched, folder, flavour, locks)
    # Files that were edited while the build ran may not be in it.
    if _key(tree, flavour) == key:
        stamp.write_text(key)
    took = progress.duration(time.monotonic() - started)
    progress.note(f"kernel, flavour {flavour}, is ready after {took}: {folder}")
    return Kernel(flavour, folder, patched)


def copy_image(kernel: Kernel, place: Path) -> None:
    """Copies the image, which another build may change at any time."""
    with cache.lock(f"kernel-{kernel.flavour}"):
        shutil.copyfile(kernel.image, place)
