# SPDX-License-Identifier: GPL-2.0
"""Lockless code, in every order that the memory model allows."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import vm
from lib import cache

# The models, and the sources of the pool that they cover.
SOURCES = [
    "tools/testing/models",
    *(f"pool/{name}.rs" for name in ("address", "class", "deferred", "slot")),
]
# The orderings that begin, sync and claim of a mapping and the stack of deferred slots
# rely on, as the sources have them without comments. When one is made weaker, or its
# barrier is removed, a model fails. The orderings of free() and of the functions that
# take back and defer are not here: a lock is taken afterwards to get the slot.
WEAKER = {
    "begin_address": ("slot", "self.orig.store(mapping.orig.raw(), Release)"),
    "begin_word": ("slot", "self.word.store(word, Release)"),
    "handed_over": ("slot", "self.word.store(word, Release);\n        smp_mb(Write);"),
    "sync_first": ("slot", "smp_mb(Read);\n        let mapping"),
    "sync_second": ("slot", "smp_mb(Read);\n        (read_once"),
    "claim": ("slot", "self.word.cmpxchg(word, word & !MAPPED, Acquire).ok()?"),
    "claim_any": ("slot", "let claimed = self.word.cmpxchg(word, word & !MAPPED, Acquire)"),
    "lent": ("slot", "addr, bytes), Release);\n        smp_mb(Write);"),
    "push": ("deferred", "self.top.cmpxchg(top, addr.raw(), Full)"),
    "take": ("deferred", "self.deferred.top.xchg(END, Full)"),
}


def _cargo(sources: Path, command: str) -> subprocess.CompletedProcess:
    folder = sources.parent
    settings = {
        "CARGO_HOME": str(folder / "cargo"),
        "CARGO_TARGET_DIR": str(folder / "target"),
    }
    return subprocess.run(
        ["cargo", *command.split()],
        cwd=sources / SOURCES[0],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def sources():
    """A copy with the same folders. Its path is always the same.

    cargo knows files outside of a package by their paths, and would look at those of
    another copy.
    """
    folder = cache.root() / "rust" / "models" / "sources"
    with cache.lock("models"):
        shutil.rmtree(folder, ignore_errors=True)
        for name in SOURCES:
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            if (vm.ROOT / name).is_dir():
                shutil.copytree(vm.ROOT / name, place)
            else:
                shutil.copy(vm.ROOT / name, place)
        yield folder


def test_clippy(sources):
    """clippy has nothing to say."""
    done = _cargo(sources, "clippy --quiet --release --tests -- -D warnings")
    assert done.returncode == 0, done.stderr


def test_all_orders(sources):
    """In none of them is anything lost, mixed up or owned twice."""
    done = _cargo(sources, "test --release")
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"^test result: ok. (\d+) passed", done.stdout, re.M)
    assert int(passed[1]) >= 10, done.stdout


@pytest.mark.parametrize("name", WEAKER)
def test_orderings_are_needed(name, sources):
    """With a weaker ordering in its place, a model fails."""
    file, words = WEAKER[name]
    path = sources / f"pool/{file}.rs"
    text = re.sub(r"\n *//.*", "", path.read_text(encoding="utf-8"))
    assert text.count(words) == 1, words
    weaker = re.sub(r"smp_mb\(\w+\);", "", words)
    if weaker == words:
        weaker = re.sub("Release|Acquire|Full", "Relaxed", words)
    assert weaker != words
    path.write_text(text.replace(words, weaker), encoding="utf-8")
    done = _cargo(sources, "test --release")
    assert "test result: FAILED" in done.stdout, done.stdout + done.stderr
