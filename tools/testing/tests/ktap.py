# SPDX-License-Identifier: GPL-2.0
"""Reads test results in KTAP from a kernel's console."""

import dataclasses
import re

RESULT = re.compile(r"^( *)(not ok|ok) (\d+) (?:- )?(.*)$")
PLAN = re.compile(r"^( *)1\.\.(\d+)$")
STAMP = re.compile(r"^\[ *\d+\.\d+\] ?(?:\[ *[CT]\d+\] ?)?")


@dataclasses.dataclass
class Test:
    """One result and what was printed before it."""

    name: str
    passed: bool
    skipped: str
    depth: int
    said: list[str]


def strip(console: str) -> list[str]:
    """The console's lines without their time stamps."""
    return [STAMP.sub("", line) for line in console.splitlines()]


def parse(console: str) -> list[Test]:
    """All results, in order; nested ones come before what they belong to."""
    tests: list[Test] = []
    said: list[str] = []
    for line in strip(console):
        found = RESULT.match(line)
        if not found:
            said.append(line)
            continue
        name, _, skipped = found.group(4).partition(" # SKIP")
        depth = len(found.group(1)) // 4
        tests.append(
            Test(name.strip(), found.group(2) == "ok", skipped.strip(), depth, said)
        )
        said = []
    return tests


def plans(console: str) -> list[tuple[int, int]]:
    """Depth and number of tests of each plan."""
    found = [PLAN.match(line) for line in strip(console)]
    return [(len(hit.group(1)) // 4, int(hit.group(2))) for hit in found if hit]
