# SPDX-License-Identifier: GPL-2.0
"""The kernel with cc_swiotlb builds without a word from its checkers."""

import os
import re
import subprocess

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
    """All warnings, and of them our own."""
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
    """What `make check-configs` builds may not warn at all, by its compilers' rule."""
    assert len(kernel.CONFIGS) >= 5
    makefile = (vm.ROOT / "GNUmakefile").read_text(encoding="utf-8")
    listed = re.search(r"^CONFIGS := (.*)$", makefile, re.M)
    assert listed[1].split() == list(kernel.CONFIGS)
    for name, flavour in kernel.CONFIGS.items():
        wanted = kernel.settings_of(kernel.fragments(name))
        assert flavour.strict and wanted["CONFIG_WERROR"] == "y", name
        assert flavour.arguments()[0] == ("ARCH=x86" if name == "gcc" else "LLVM=1")
    assert vm.make_arguments("gcc") == [] and vm.make_arguments() == ["LLVM=1"]


def test_without_kunit(tmp_path):
    """Nothing is there for the KUnit tests alone: most kernels are built without."""
    folder = vm.kdir()
    saved = folder / "kernel/dma/cc_swiotlb/.cc_swiotlb.o.cmd"
    command = saved.read_text(encoding="utf-8").splitlines()[0]
    command = command.partition(" := ")[2].partition(" ;")[0]
    settings = "./include/generated/rustc_cfg"
    assert f"@{settings}" in command
    kept = [
        line
        for line in (folder / settings).read_text(encoding="utf-8").splitlines()
        if "CONFIG_CC_SWIOTLB_KUNIT_TEST" not in line
    ]
    (tmp_path / "cfg").write_text("\n".join(kept), encoding="utf-8")
    command = command.replace(f"@{settings}", f"@{tmp_path}/cfg")
    command = re.sub(r"--emit=\S+|--out-dir \S+", "", command)
    done = subprocess.run(
        f"{command} --emit=metadata --out-dir {tmp_path}",
        shell=True,
        cwd=folder,
        env={**os.environ, "RUSTC_BOOTSTRAP": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr[-4000:]
    assert list(tmp_path.glob("*.rmeta")), "nothing was compiled"


# A function of the library of Rust that does not return.
PANIC = re.compile(r"4core\S*(?:panic|_fail|unwrap_failed|expect_failed)")


def _panics(listing: str) -> tuple[dict[str, set[str]], int]:
    """By function, what it refers to that panics; and the number of references."""
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
    """No code but that of tests refers to anything that panics."""
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


def test_clippy():
    """clippy, with the kernel's own list of lints."""
    folder = vm.kdir()
    own = folder / "kernel" / "dma" / "cc_swiotlb"
    for made in own.glob("*.o"):
        # So that it is compiled again, this time under clippy's eyes.
        made.unlink()
    try:
        done = subprocess.run(
            ["make", "-C", str(folder), *vm.make_arguments(), "CLIPPY=1"]
            + ["kernel/dma/cc_swiotlb/"],
            capture_output=True,
            text=True,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, said[-4000:]
        assert re.search(r"CLIPPY.*cc_swiotlb", said), (
            f"clippy did not run\n{said[-2000:]}"
        )
        bad = [line for line in said.splitlines() if re.match(r"(warning|error)", line)]
        assert not bad, said[-4000:]
    finally:
        for made in own.glob("*.o"):
            made.unlink()
        subprocess.run(
            ["make", "-C", str(folder), *vm.make_arguments(), "kernel/dma/cc_swiotlb/"],
            capture_output=True,
            check=False,
        )
