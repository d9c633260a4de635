# SPDX-License-Identifier: GPL-2.0
"""What can be said of the sources without running them."""

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
        # Not a checkout: what is there, but for what tools leave behind.
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
    """Nothing of the machine that it was written on."""
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
    """So do the integration patches."""
    words = [str(_tree() / "scripts/checkpatch.pl"), "--strict", "--terse"]
    # Who signs off, and MAINTAINERS, are matters of a submission.
    ignored = "FILE_PATH_CHANGES,MISSING_SIGN_OFF,NO_AUTHOR_SIGN_OFF,AVOID_EXTERNS"
    if "trace" in path.name:
        ignored += ",OPEN_ENDED_LINE,PARENTHESIS_ALIGNMENT"
    _run([*words, "--ignore", ignored, str(path)], cwd=_tree())


def test_patches_are_small():
    """Small enough to read in one sitting."""
    changed = 0
    for path in vm.ROOT.glob("patches/*/*.patch"):
        text = path.read_text(encoding="utf-8")
        changed += len(re.findall(r"^[+-](?![+-])", text, re.M))
    assert 0 < changed < 500, f"{changed} lines changed"


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
    """What starts with an interpreter can be executed, what does not cannot."""
    bad = []
    for path in FILES:
        script = _first(path).startswith("#!")
        if script != os.access(path, os.X_OK) and path.suffix != ".patch":
            bad.append(_name(path))
    assert not bad, bad
