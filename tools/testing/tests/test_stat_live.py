# SPDX-License-Identifier: GPL-2.0
"""cc_swiotlb_stat: the live view, in a terminal."""

import pytest
import stat_tool
from stat_tool import MIB, UNKNOWN, Terminal, allocator, write, write_log


@pytest.fixture
def healthy(tmp_path):
    """The folder of a healthy allocator."""
    return allocator(tmp_path / "healthy")


SIZES = {"80x24": (80, 24), "120x40": (120, 40), "no size": (0, 0)}


@pytest.mark.parametrize(("width", "height"), SIZES.values(), ids=SIZES)
def test_live(tmp_path, width, height):
    """All values are on the screen and change; q ends it and restores the terminal."""
    folder = allocator(tmp_path, {"fallback_legacy": 12, "misuse": 1, "refused": 1})
    with Terminal(width, height, "--sysfs", folder, "--interval", "0.2") as terminal:
        write(folder, {"shared_bytes": 134 * MIB, "mapped": 99 * 10**6})
        # The last line is there before there are any rates.
        terminal.wait("q quit ")
        lines = terminal.wait("MAPPED/S")
        assert len(lines) == (height or 24)
        assert max(map(len, lines)) <= (width or 80)
        assert lines[0].startswith("cc_swiotlb is on ") and lines[0].endswith(" UTC")
        assert [line.split()[0] for line in lines[8:18]] == stat_tool.CLASSES
        assert lines[20].startswith("12 mappings left to the legacy pool: raise ")
        assert lines[-1].startswith("q quit ")
        assert ("GROWTH/S" in lines[7]) == (width == 120)
        terminal.wait("134.0 MiB at most")
        terminal.wait("99.0M mapped/s          0")
        terminal.press("q")
        assert terminal.end() == (0, "")
        assert terminal.restored()


def test_live_interrupted(healthy):
    """Ctrl-C ends it as well."""
    with Terminal(80, 24, "--sysfs", healthy) as terminal:
        terminal.wait("q quit")
        terminal.press("\x03")
        assert terminal.end() == (0, "")
        assert terminal.restored()


def test_live_folder_goes(healthy, tmp_path):
    """An error ends it too, and is legible."""
    with Terminal(80, 24, "--sysfs", healthy, "--interval", "0.1") as terminal:
        terminal.wait("q quit")
        healthy.rename(tmp_path / "away")
        status, said = terminal.end()
        assert status == UNKNOWN and "No such file" in said
        assert terminal.restored()


def test_live_log(tmp_path):
    """Keys move through a log, and it can be played."""
    write_log(tmp_path / "log", *({"refused": 11 * n} for n in range(4)))
    options = ("--replay", tmp_path / "log", "--interval", "0.1")
    with Terminal(80, 24, *options) as terminal:
        terminal.wait("1/4  PAUSED")
        for key, place, refused in (
            ("\x1b[C", 2, 11),
            ("\x1b[F", 4, 33),
            ("\x1b[D", 3, 22),
            ("\x1b[H", 1, 0),
        ):
            terminal.press(key)
            terminal.wait(f"{place}/4  PAUSED")
            terminal.wait(f"refused {refused:11}")
        terminal.press(" ")
        assert "PAUSED" not in terminal.wait("4/4")[-1]
        terminal.press("q")
        assert terminal.end() == (0, "")


def test_no_keyboard(healthy):
    """If nobody can press a key, it is --once: a service on a console."""
    with Terminal(80, 24, "--sysfs", healthy, keyboard=False) as terminal:
        assert terminal.end() == (0, "")
        assert "Nothing is wrong." in terminal.raw and "\x1b" not in terminal.raw
