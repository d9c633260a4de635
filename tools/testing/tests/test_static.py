# SPDX-License-Identifier: GPL-2.0
"""Checks of the sources that need no run of them."""

import importlib.machinery
import importlib.util
import os
import py_compile
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import vm
from lib import source

# Files that are data of others, or have no comments.
NO_SPDX = {".gitignore", ".gitattributes", ".rustfmt.toml", "LICENSE", "COPYING"}
# The kernel's pages on its ABI have none either.
NO_SPDX |= {"sysfs-kernel-mm-cc_swiotlb"}
LIMIT = 600


def _listed() -> list[Path]:
    done = subprocess.run(
        ["git", "-C", str(vm.ROOT), "ls-files", "-z"],
        capture_output=True,
        text=True,
        check=False,
    )
    names = [name for name in done.stdout.split("\0") if name]
    if done.returncode or not names:
        # Not a checkout: all files, except those that tools leave behind.
        names = [
            str(path.relative_to(vm.ROOT))
            for path in vm.ROOT.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        ]
    return sorted(vm.ROOT / name for name in names if (vm.ROOT / name).is_file())


FILES = _listed()


def _first(path: Path) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.readline()


def _of(*suffixes: str, interpreter: str = "") -> list[Path]:
    return [
        path
        for path in FILES
        if path.suffix in suffixes
        or (
            interpreter
            and not path.suffix
            and re.match(rf"#!.*{interpreter}", _first(path))
        )
    ]


@vm.once
def _tree() -> Path:
    """The pristine kernel source, for its checkers."""
    return source.pristine().folder


def _name(path: Path) -> str:
    return str(path.relative_to(vm.ROOT))


def _each(paths: list[Path]):
    return pytest.mark.parametrize("path", paths, ids=[_name(path) for path in paths])


def _run(words: list[str], **options) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, **options)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-4000:]
    return said


def test_spdx():
    """Each file says its licence at its top."""
    bad = []
    for path in FILES:
        if path.name in NO_SPDX or path.suffix in (".patch", ".svg", ".png"):
            continue
        with open(path, encoding="utf-8", errors="replace") as file:
            top = "".join(file.readline() for _ in range(3))
        if "SPDX-License-Identifier: GPL-2.0" not in top:
            bad.append(_name(path))
    assert not bad, bad


def test_size():
    """No file is longer than a reader's patience."""
    long = []
    for path in FILES:
        count = len(path.read_text(encoding="utf-8", errors="replace").splitlines())
        if count > LIMIT and path.suffix != ".patch":
            long.append(f"{_name(path)}: {count} lines")
    assert not long, long


def test_no_machine_names():
    """No file names a path of the machine that it was written on."""
    bad = []
    for path in FILES:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if re.search(r"/(?:root|home|work)/\w", line):
                bad.append(f"{_name(path)}: {line.strip()}")
    assert not bad, bad


@_each(_of(".py", interpreter="python3"))
def test_python(path, tmp_path):
    """Python compiles."""
    py_compile.compile(str(path), cfile=str(tmp_path / "compiled"), doraise=True)


@_each(_of(".sh", interpreter="sh$"))
def test_shell(path):
    """Shell passes shellcheck."""
    _run(["shellcheck", "--shell", "sh", str(path)])


def test_shell_is_found():
    """The search for shell files still finds them."""
    assert "tools/testing/workload/disk" in map(_name, _of(interpreter="sh$"))


@_each(_of(".c", ".h"))
def test_checkpatch(path):
    """C passes the kernel's own check, in its strict form."""
    words = [str(_tree() / "scripts/checkpatch.pl"), "--strict", "--terse", "--no-tree"]
    # Trace headers are included many times, and their macros look odd.
    ignored = "FILE_PATH_CHANGES,LINUX_VERSION_CODE,SPDX_LICENSE_TAG"
    if "trace" in path.name or "trace" in path.parent.name:
        ignored += ",MACRO_ARG_REUSE,OPEN_ENDED_LINE,SPACING,COMPLEX_MACRO"
        ignored += ",PARENTHESIS_ALIGNMENT"
    _run([*words, "--ignore", ignored, "--file", str(path)], cwd=_tree())


@_each(_of(".patch"))
def test_checkpatch_patch(path):
    """The integration patches pass it as well."""
    words = [str(_tree() / "scripts/checkpatch.pl"), "--strict", "--terse"]
    # Sign-offs and MAINTAINERS are matters of a submission; here is no history in which
    # commits could be found.
    ignored = "FILE_PATH_CHANGES,MISSING_SIGN_OFF,NO_AUTHOR_SIGN_OFF,AVOID_EXTERNS"
    ignored += ",UNKNOWN_COMMIT_ID"
    if "trace" in path.name:
        ignored += ",OPEN_ENDED_LINE,PARENTHESIS_ALIGNMENT"
    _run([*words, "--ignore", ignored, str(path)], cwd=_tree())


def test_patches_are_small():
    """The patches are small enough to read in one sitting."""
    changed = 0
    for path in vm.ROOT.glob("patches/*/*.patch"):
        text = path.read_text(encoding="utf-8")
        changed += len(re.findall(r"^[+-](?![+-])", text, re.M))
    assert 0 < changed < 905, f"{changed} lines changed"


def _rust_tool(name: str) -> str:
    """A tool of the toolchain that builds the kernel."""
    for word in vm.make_arguments():
        key, _, value = word.partition("=")
        if key == name:
            return value
    found = shutil.which(name.lower(), path="/usr/bin")
    assert found, f"no {name}"
    return found


@_each(_of(".rs"))
def test_rustfmt(path, tmp_path):
    """Rust is formatted as the kernel's is."""
    # rustfmt follows `mod`: a copy of the one file has none to follow.
    copy = tmp_path / path.name
    text = path.read_text(encoding="utf-8")
    copy.write_text(
        re.sub(r"^(\s*(?:pub(?:\(.*?\))? )?)mod (\w+);", r"\1use \2;", text, flags=re.M)
    )
    shutil.copy(_tree() / ".rustfmt.toml", tmp_path)
    _run([_rust_tool("RUSTFMT"), "--check", "--edition", "2021", str(copy)])


def test_rust_is_found():
    """There is Rust to check, once there is an allocator."""
    assert _of(".rs")


def test_executables():
    """Files that start with an interpreter are executable, and others are not."""
    bad = []
    for path in FILES:
        script = _first(path).startswith("#!")
        if script != os.access(path, os.X_OK) and path.suffix != ".patch":
            bad.append(_name(path))
    assert not bad, bad


# Limits for the code that the kernel runs: lines of Rust, of a Rust source with its
# tests, and of the C glue. They only shrink, unless a fault is mended. Bouncing has
# 3,245 and 328 of the lines; the others came with lent memory.
RUST_LOGIC = 3670
RUST_FILE = 400
C_GLUE = 431

# Which folder may use which; `crate` stands for the items that cc_swiotlb.rs defines
# itself. A mapping goes down through pool/ and never meets kccd/.
LAYERS = {
    "pool": {"crate", "glue", "params", "trace"},
    "kccd": {"glue", "params", "pool", "trace"},
    "glue": {"crate", "params", "pool"},
    "params": {"glue", "kccd", "pool"},
    "trace": {"glue", "pool"},
}
# The items of kccd/ that params/ knows: they say what a value means, and do not act on
# it.
PARAMS_OF_KCCD = {"watermark", "Idle"}


@vm.once
def _count_logic():
    """tools/count-logic, as a module."""
    path = str(vm.ROOT / "tools" / "count-logic")
    loader = importlib.machinery.SourceFileLoader("count_logic", path)
    spec = importlib.util.spec_from_loader(loader.name, loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_logic_is_counted(tmp_path):
    """The count tells logic from everything else."""
    (tmp_path / "pool" / "x").mkdir(parents=True)
    (tmp_path / "glue").mkdir()
    (tmp_path / "cc_swiotlb.rs").write_text(
        """// SPDX
mod pool;
use kernel::{
    prelude::*, //
};
/* a
comment */
const A: &str = "// no { comment"; // one
#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
use kernel::kunit;

/// Doc.
fn f<'a>(c: &'a char) -> bool {
    *c == '{' || *c == '\\''
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(t)]
mod tests {
    fn g() {}
}
fn h() {}
"""
    )
    (tmp_path / "pool" / "mod.rs").write_text("mod x;\npub(crate) use y::{a, b};\n")
    (tmp_path / "pool" / "x.rs").write_text(
        "#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]\nmod tests;\nstruct X;\n"
    )
    (tmp_path / "pool" / "x" / "tests.rs").write_text("fn test() {}\n")
    (tmp_path / "glue" / "a.c").write_text("/* no */\n#include <a.h>\n\nint a;\n")
    found = _count_logic().rust_logic(tmp_path)
    counts = {str(path.relative_to(tmp_path)): found[path] for path in found}
    assert counts == {"cc_swiotlb.rs": 6, "pool/mod.rs": 1, "pool/x.rs": 1}
    assert _count_logic().c_lines(tmp_path) == 2


def test_only_a_tree_is_counted(tmp_path):
    """A folder that is no tree is refused in words, and not counted as empty."""
    words = [str(vm.ROOT / "tools" / "count-logic"), str(tmp_path)]
    result = subprocess.run(words, capture_output=True, text=True)
    assert result.returncode == 2
    assert not result.stdout
    assert f"{tmp_path}: no cc_swiotlb.rs in there" in result.stderr


def test_logic_is_small():
    """The logic is small enough to be reviewed."""
    found = _count_logic().rust_logic(vm.ROOT)
    assert len(found) > 20
    lines = sum(found.values())
    assert 1000 < lines <= RUST_LOGIC, f"{lines} lines of Rust logic"


def test_glue_is_small():
    """C does only what Rust cannot."""
    lines = _count_logic().c_lines(vm.ROOT)
    assert 100 < lines <= C_GLUE, f"{lines} lines of C"


def test_rust_files_are_short():
    """A Rust source is short, with its tests."""
    counts = {path: len(path.read_text().splitlines()) for path in _of(".rs")}
    long = [f"{_name(path)}: {n} lines" for path, n in counts.items() if n > RUST_FILE]
    assert not long, long


def _paths(prefix: str, body: str) -> set[str]:
    """The paths of an import: those in braces one by one."""
    found, depth, start = set(), 0, 0
    for at, char in enumerate(f"{body},"):
        depth += (char == "{") - (char == "}")
        if char == "," and not depth:
            item = body[start:at].strip()
            head, brace, rest = item.partition("{")
            if brace:
                found |= _paths(prefix + head, rest.rpartition("}")[0])
            elif item:
                found.add(prefix + item)
            start = at + 1
    return found


def _crate_paths(path: Path) -> set[str]:
    """The paths of the crate that a source uses outside of tests, from the top on."""
    logic = _count_logic()
    text, _ = logic.without_tests(logic.plain(path.read_text(encoding="utf-8")))
    found = set()
    for body in re.findall(r"\buse ([^;]*);", text):
        found |= _paths("", " ".join(body.split()))
    found.update(re.findall(r"\b(?:crate|super)::[\w:]+", text))
    # How many times `super` leads out of the folder to the crate's top.
    out = len(path.relative_to(vm.ROOT).parts) - (path.name == "mod.rs")
    tops = ("crate::", "super::" * out)
    return {
        each.removeprefix(top) for each in found for top in tops if each.startswith(top)
    }


def test_pool_knows_nothing_of_kccd():
    """The tests of pool/ do not use kccd/ either."""
    bad = [
        _name(path)
        for path in _of(".rs")
        if path.relative_to(vm.ROOT).parts[0] == "pool"
        and "kccd::" in _count_logic().plain(path.read_text(encoding="utf-8"))
    ]
    assert not bad, bad


@pytest.mark.parametrize("folder", LAYERS)
def test_layers(folder):
    """A folder uses only what is below it: its work is not spread over two."""
    sources = [
        path
        for path in _count_logic().rust_logic(vm.ROOT)
        if path.relative_to(vm.ROOT).parts[0] == folder
    ]
    assert sources
    used = {each: path for path in sources for each in _crate_paths(path)}
    for each, path in used.items():
        first, _, rest = each.partition("::")
        layer = first if first in LAYERS else "crate"
        # `crate::pool()` is the pool, and a folder may name itself.
        assert layer in LAYERS[folder] | {folder}, f"{_name(path)} uses {each}"
        if (folder, layer) == ("params", "kccd"):
            assert rest.partition("::")[0] in PARAMS_OF_KCCD, f"{_name(path)}: {each}"
    assert {each.partition("::")[0] for each in used} & LAYERS[folder], used
