# SPDX-License-Identifier: GPL-2.0
"""Empty libraries in place of large ones that a program never calls.

Debian's fio is linked with the clients of several network storage systems, 70
MiB which every guest would have to unpack.  All the loader asks for is that
the symbols exist, in the right versions; a call would end the program.
"""

import re
import subprocess
from collections import defaultdict
from pathlib import Path

# The libraries of fio that it needs for local files and disks.
KEPT = ("libaio", "libc", "libdl", "libm", "libnuma", "libpthread", "librt", "libz")


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _symbols(path: Path, undefined: bool) -> set[tuple[str, str]]:
    """The dynamic symbols that a file defines or asks for: name, version."""
    found = set()
    pattern = r"^[0-9a-f]{16} (.{7}) (\S+)\t[0-9a-f]{16}\s+(.*?)\s*(\S+)$"
    for flags, section, version, name in re.findall(
        pattern, _run("objdump", "-T", str(path)), re.MULTILINE
    ):
        # A program does without a weak symbol that nobody defines.
        if (section == "*UND*") == undefined and not (undefined and "w" in flags):
            found.add((name, version.strip(" ()").replace("Base", "")))
    return found


def _versions(path: Path) -> dict[str, list[str]]:
    """The symbol versions that a program demands of each library."""
    found: dict[str, list[str]] = defaultdict(list)
    library = ""
    for line in _run("objdump", "-p", str(path)).splitlines():
        match = re.match(r"\s+required from (\S+):", line)
        if match:
            library = match.group(1)
        elif library and re.match(r"\s+0x[0-9a-f]+ 0x[0-9a-f]+ \d+ \S+", line):
            found[library].append(line.split()[-1])
    return found


def _link(name: str, symbols: dict[str, list[str]], place: Path) -> None:
    """Makes a library that defines these symbols, by version ("" for none)."""
    source = place / f"{name}.s"
    script = place / f"{name}.map"
    lines = [".text"]
    for symbol in sorted(each for group in symbols.values() for each in group):
        lines.append(f".globl {symbol}\n.type {symbol},@function\n{symbol}: ud2")
    source.write_text("\n".join(lines) + "\n", encoding="ascii")
    nodes = [
        f"{version} {{ {'global: ' if group else ''}"
        f"{' '.join(f'{each};' for each in group)} }};"
        for version, group in symbols.items()
        if version
    ]
    script.write_text("\n".join(nodes) + "\n", encoding="ascii")
    versioned = [f"--version-script={script}"] if nodes else []
    _run("as", "-o", str(place / f"{name}.o"), str(source))
    _run(
        *("ld", "-shared", "-soname", name, *versioned),
        *("-o", str(place / name), str(place / f"{name}.o")),
    )


def make(program: Path, libraries: dict[str, Path], place: Path) -> dict[str, Path]:
    """Makes stubs for the libraries of `program` that are not KEPT.

    `libraries` are those that it is linked with, by name.  Returns the stubs by
    name; none of them if the program would not start with them.
    """
    needed = re.findall(r"NEEDED\s+(\S+)", _run("objdump", "-p", str(program)))
    kept = {name for name in needed if name.partition(".so")[0] in KEPT}
    replaced = [name for name in needed if name not in kept]
    if not replaced:
        return {}
    wanted = _symbols(program, undefined=True)
    for name in kept:
        defined = {symbol for symbol, _ in _symbols(libraries[name], undefined=False)}
        wanted = {pair for pair in wanted if pair[0] not in defined}
    versions = _versions(program)
    stubs = {}
    for index, name in enumerate(replaced):
        groups = {
            version: [symbol for symbol, of in wanted if of == version]
            for version in versions.get(name, [])
        }
        # It does not matter which library defines a symbol without a version.
        groups[""] = [symbol for symbol, of in wanted if not of and index == 0]
        _link(name, groups, place)
        stubs[name] = place / name
    probe = subprocess.run(
        [str(program), "--version"],
        env={"LD_LIBRARY_PATH": str(place), "LC_ALL": "C.UTF-8"},
        capture_output=True,
        check=False,
    )
    return stubs if probe.returncode == 0 and not probe.stderr else {}
