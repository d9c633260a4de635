# SPDX-License-Identifier: GPL-2.0
"""The kernel with cc_swiotlb builds without a word from its checkers."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import vm
from lib import kernel, toolchain


@pytest.mark.parametrize("flavour", ["guest", "debug"])
def test_build(flavour):
    """Both kernels; a warning in a file of ours is an error to ccvm."""
    assert (vm.kdir(flavour) / "arch/x86/boot/bzImage").is_file()


SAID = """\
  CC      mm/page_alloc.o
mm/page_alloc.c:12:3: warning: unused variable 'x' [-Wunused-variable]
kernel/dma/cc_swiotlb/glue/trace.c:1:1: warning: odd
warning: unused import: `core::mem`
 --> kernel/dma/cc_swiotlb/pool/mod.rs:3:5
vmlinux.o: warning: objtool: cc_swiotlb_map+0x1: unreachable
  RUSTC   warnings/are/not/in/names.o
"""


def test_warnings_are_found(tmp_path):
    """All warnings are found, and which of them are our own."""
    found = kernel.warnings_of(SAID)
    assert [line.split()[0] for line in found] == [
        "mm/page_alloc.c:12:3:",
        "kernel/dma/cc_swiotlb/glue/trace.c:1:1:",
        "warning:",
        "vmlinux.o:",
    ]
    assert kernel.own_warnings(SAID, tmp_path) == found[1:]


def test_kernels_are_kept_by_what_builds_them():
    """A kernel that other compilers have built is another kernel."""
    assert vm.kdir().parents[1].name == toolchain.identity()


def test_configurations_are_strict():
    """The kernels of `make check-configs` may not warn: their compilers stop then."""
    assert len(kernel.CONFIGS) >= 5
    makefile = (vm.ROOT / "GNUmakefile").read_text(encoding="utf-8")
    listed = re.search(r"^CONFIGS := (.*)$", makefile, re.M)
    assert listed[1].split() == list(kernel.CONFIGS)
    for name, flavour in kernel.CONFIGS.items():
        wanted = kernel.settings_of(kernel.fragments(name))
        assert flavour.strict and wanted["CONFIG_WERROR"] == "y", name
        assert flavour.arguments()[0] == ("ARCH=x86" if name == "gcc" else "LLVM=1")
    assert vm.make_arguments("gcc") == [] and vm.make_arguments() == ["LLVM=1"]


def _compile(out: Path, change: Callable[[str], str]) -> subprocess.CompletedProcess:
    """Compiles the crate once more, with a changed command, into a folder."""
    folder = vm.kdir()
    saved = folder / "kernel/dma/cc_swiotlb/.cc_swiotlb.o.cmd"
    command = saved.read_text(encoding="utf-8").splitlines()[0]
    command = command.partition(" := ")[2].partition(" ;")[0]
    tree = re.search(r"(\S+)/kernel/dma/cc_swiotlb/cc_swiotlb\.rs", command)[1]
    command = change(re.sub(r"--emit=\S+|--out-dir \S+", "", command))
    done = subprocess.run(
        f"{command} --emit=metadata --out-dir {out}",
        shell=True,
        cwd=folder,
        env={**os.environ, "RUSTC_BOOTSTRAP": "1", "CLIPPY_CONF_DIR": tree},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert list(out.glob("*.rmeta")), "nothing was compiled"
    return done


def test_without_kunit(tmp_path):
    """No code is there for KUnit tests alone: most kernels are built without them."""
    settings = "./include/generated/rustc_cfg"
    kept = [
        line
        for line in (vm.kdir() / settings).read_text(encoding="utf-8").splitlines()
        if "CONFIG_CC_SWIOTLB_KUNIT_TEST" not in line
    ]
    (tmp_path / "cfg").write_text("\n".join(kept), encoding="utf-8")

    def change(command: str) -> str:
        assert f"@{settings}" in command
        return command.replace(f"@{settings}", f"@{tmp_path}/cfg")

    assert "warning" not in _compile(tmp_path, change).stderr


def test_clippy(tmp_path):
    """clippy, with the kernel's own list of lints."""

    def change(command: str) -> str:
        command, count = re.subn(r"(?<= )rustc(?= )", "clippy-driver", command)
        assert count == 1 and "-Wclippy::all" in command, command
        return command

    # Code to complain about, which shows that clippy looks.
    (tmp_path / "bad.rs").write_text(
        "//! Bad.\n/// Casts.\npub fn cast(it: &u8) -> *const u8 {\n"
        "    it as *const u8\n}\n",
        encoding="utf-8",
    )

    def bad(command: str) -> str:
        return re.sub(r"\S+/cc_swiotlb\.rs", f"{tmp_path}/bad.rs", change(command))

    assert "ref_as_ptr" in _compile(tmp_path, bad).stderr
    said = _compile(tmp_path, change).stderr
    assert not re.search(r"^(warning|error)", said, re.M), said[-4000:]


# A function of Rust's library that does not return.
PANIC = re.compile(r"4core\S*(?:panic|_fail|unwrap_failed|expect_failed)")


def _panics(listing: str) -> tuple[dict[str, set[str]], int]:
    """By function, the panicking functions it refers to; the number of references."""
    found: dict[str, set[str]] = {}
    function, count = "", 0
    for line in listing.splitlines():
        if head := re.match(r"[0-9a-f]+ <(.+)>:$", line):
            function = head[1]
        elif reference := re.search(r"\bR_X86_64_\w+\s+(\S+)", line):
            count += 1
            if PANIC.search(reference[1]):
                found.setdefault(function, set()).add(reference[1])
    return found, count


def test_nothing_panics():
    """No code but that of tests refers to a function that panics."""
    control = (
        "0010 <_RNvMNtC_10cc_swiotlb4poolNtB_4Pool3map>:\n"
        "    R_X86_64_PLT32\t_RNvNtC_4core9panicking18panic_bounds_check-0x4\n"
        "    R_X86_64_PLT32\tmemcpy-0x4\n"
    )
    (function, called), *_ = _panics(control)[0].items()
    assert function.endswith("3map") and len(called) == 1
    made = vm.kdir() / "kernel/dma/cc_swiotlb/cc_swiotlb.o"
    words = ["llvm-objdump", "--disassemble", "--reloc", "--no-show-raw-insn"]
    done = subprocess.run(
        [*words, str(made)], capture_output=True, text=True, check=True
    )
    found, count = _panics(done.stdout)
    assert count > 1000, f"only {count} references: {done.stderr[-2000:]}"
    own = {name: found[name] for name in found if not re.search(r"5tests", name)}
    assert not own, own
