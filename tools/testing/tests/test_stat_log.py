# SPDX-License-Identifier: GPL-2.0
"""cc_swiotlb_stat: its logs, and the advice that it gives."""

import itertools
import json
import re
import signal
import subprocess
import time

import pytest
import stat_tool
from stat_tool import (
    HEALTHY,
    MIB,
    SLOTS,
    TROUBLE,
    UNKNOWN,
    allocator,
    run,
    tool,
    write,
    write_log,
)


@pytest.fixture
def healthy(tmp_path):
    """The folder of a healthy allocator."""
    return allocator(tmp_path / "healthy")


def test_log(healthy, tmp_path):
    """Each interval a whole line is added after the existing ones."""
    log = tmp_path / "log"
    log.write_text("before\n")
    words = [tool(), "--log", log, "--interval", "0.2", "--sysfs", healthy]
    with subprocess.Popen(words) as process:
        for count in (3, 5):
            # The tool is stopped, as on a busy machine: samples that it misses are left
            # out.
            process.send_signal(signal.SIGSTOP)
            time.sleep(1)
            process.send_signal(signal.SIGCONT)
            for _ in range(100):
                time.sleep(0.1)
                if log.read_text().count("\n") >= count:
                    break
        process.kill()
    first, *lines = log.read_text().splitlines()
    assert first == "before" and len(lines) >= 4
    times = [json.loads(line)["time_ms"] for line in lines]
    steps = [after - before for before, after in itertools.pairwise(times)]
    assert all(step > 150 for step in steps), steps
    # The first line is no sample.
    done = subprocess.run(
        [tool(), "--replay", log], capture_output=True, text=True, check=True
    )
    assert done.stderr == f"{log}: left out 1 lines, no samples\n"
    assert "growth/s       +0 B" in done.stdout


def test_log_fails():
    """A log that cannot be written to is an error."""
    words = [tool(), "--log", "/dev/full", "--sysfs", stat_tool.FOLDER]
    done = subprocess.run(words, capture_output=True, text=True, timeout=9, check=False)
    assert done.returncode == UNKNOWN
    assert done.stderr.startswith("cc_swiotlb_stat: /dev/full: No space left")


def test_replay(tmp_path):
    """The end of a log, with the changes; each way of showing reads it."""
    log = tmp_path / "log"
    write_log(log, {}, {"mapped": 12349678, "shared_bytes": 14 * MIB, "refused": 5})
    said = run("--replay", log)
    assert said.startswith("cc_swiotlb is on" + " " * 41 + "2000-02-29 00:00:09 UTC\n")
    assert "growth/s   -2.0 MiB" in said and "mapped/s        400" in said
    assert "\n5 (0.50/s) mappings refused" in said
    assert json.loads(run("--replay", log, "--json"))["mapped"] == 12349678
    assert "cc_swiotlb_mapped_total 12349678\n" in run("--replay", log, "--prom")
    assert "(0.50/s)" in run("--replay", log, "--check", status=2)


def test_replay_reboot(tmp_path):
    """After a reboot counters begin anew: no rates are shown, least of all negative."""
    write_log(tmp_path / "log", {"refused": 2}, {"mapped": 1, "refused": 5})
    said = run("--replay", tmp_path / "log")
    assert "mapped/s          -" in said and "\n5 mappings refused" in said


@pytest.mark.parametrize("content", [None, "", "{}\n", "no\n"])
def test_replay_fails(tmp_path, content):
    """A log without a sample is an error that names it."""
    log = tmp_path / "log"
    if content is not None:
        log.write_text(content)
    words = [tool(), "--replay", log]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (UNKNOWN, "")
    assert f"{log}: " in done.stderr


# Changes, those of the class of 4 KiB, and the watermark and the cap in MiB.

FEW = {"refused": 3, "refused_reason": "max"} | dict.fromkeys(
    ("max_bytes", "peak_bound_bytes"), 64 * MIB
)
ONE_LARGER = {"fallback_larger": 1}
ADVICE = {
    "slow": (TROUBLE, {"refused": 99999}, 128, 512),
    "max": (FEW, {"refused": 16 * MIB // 4096}, 104, 104),
    "max, tried again": (FEW, {"refused": 10**9}, 320, 320),
    "max, little bound": (FEW | {"peak_bound_bytes": 8 * MIB}, {}, 18, 80),
    "memory": (TROUBLE | {"refused_reason": "memory"}, {"refused": 5120}, 160, 512),
    "beyond max": (TROUBLE | {"peak_bound_bytes": 500 * MIB}, {}, 640, 640),
    "slow, near max": (
        TROUBLE | {"peak_shared_bytes": 110 * MIB, "max_bytes": 112 * MIB},
        {"refused": 5120},
        160,
        160,
    ),
    "legacy": ({"fallback_legacy": 1}, {}, 36, 512),
    "larger": (ONE_LARGER, {}, 30, 512),
    "not what was bound": (ONE_LARGER | {"peak_bound_bytes": "x"}, {}, 52, 512),
    "nothing known": (
        ONE_LARGER | {"peak_bound_bytes": "x", "peak_shared_bytes": "x"},
        {},
        18,
        512,
    ),
}


@pytest.mark.parametrize(
    ("changes", "slots", "watermark", "most"), ADVICE.values(), ids=ADVICE
)
def test_advise(tmp_path, changes, slots, watermark, most):
    """The values that would have been enough, in the needed forms; their price."""
    folder = allocator(tmp_path / "folder", changes, c4kB=slots)
    said = run("--advise", "--sysfs", folder)
    assert f"\ncc_swiotlb.watermark={watermark}M cc_swiotlb.max={most}M\n" in said
    assert f'\nCONFIG_CC_SWIOTLB_WATERMARK="{watermark}M"\n' in said
    assert f'\nCONFIG_CC_SWIOTLB_MAX="{most}M"\n' in said
    more = watermark - 14
    cap = changes.get("max_bytes", 512 * MIB) >> 20
    assert said.endswith(
        f"\nShared while idle: 14.0 MiB now, {watermark}.0 MiB then,"
        f" {more}.0 MiB more.\n"
        f"Shared under load: at most {cap}.0 MiB now, {most}.0 MiB then.\n"
    )


def test_advise_is_enough_at_last(tmp_path):
    """A user who follows it again and again gets more each time."""
    changes, last = FEW | {"watermark_bytes": 64 * MIB}, 64
    for _ in range(4):
        said = run("--advise", "--sysfs", allocator(tmp_path, changes))
        watermark = int(re.search(r"watermark=(\d+)M", said)[1])
        assert watermark > last
        last = watermark
        size = {"max_bytes": last * MIB, "peak_bound_bytes": last * MIB}
        changes |= size | {"watermark_bytes": last * MIB}


def test_advise_nothing(healthy):
    """If nothing fell short, nothing has to change: devices may reach no slot."""
    names = ("fallback_unreachable", "fallback_oversize", "fallback_early")
    write(healthy, {"fallback_legacy": 5, names[0]: 2, names[1]: 3, names[2]: 9})
    assert run("--advise", "--sysfs", healthy).startswith("Nothing needs to change: ")


@pytest.mark.parametrize("reason", ["host", "oversize"])
def test_advise_no_parameter(tmp_path, reason):
    """Where the host refuses, or no slot is large enough, no parameter helps."""
    folder = allocator(tmp_path, TROUBLE | {"refused_reason": reason})
    said = run("--advise", "--sysfs", folder)
    assert "no parameter helps" in said and "cc_swiotlb.watermark=" not in said


def test_advise_list(tmp_path):
    """A total takes the place of a list, and the tool says so."""
    folder = allocator(tmp_path, TROUBLE, c4kB={"watermark": 100})
    assert "takes the place of the list" in run("--advise", "--sysfs", folder)


def test_advise_log(tmp_path):
    """A log keeps the peaks and reasons of all its time, over a reboot."""
    log = tmp_path / "log"
    write_log(log, TROUBLE, FEW | {"peak_bound_bytes": MIB}, {"mapped": 0})
    said = run("--advise", "--replay", log)
    assert "kccd was still converting" in said and "cc_swiotlb.max= was reached" in said
    assert said.startswith("50 mappings were refused")
    assert "\ncc_swiotlb.watermark=512M cc_swiotlb.max=512M\n" in said


def test_advise_garbage(tmp_path):
    """The tool does not break on numbers that no guest has."""
    largest = dict.fromkeys(HEALTHY, 2**64 - 1) | {"refused_reason": "max"}
    folder = allocator(tmp_path, largest, c4kB=dict.fromkeys(SLOTS, 2**64 - 1))
    for way in ("--once", "--json", "--prom"):
        assert run(way, "--sysfs", folder)
    said = run("--advise", "--sysfs", folder)
    assert 1 << 30 < int(re.search(r"watermark=(\d+)M", said)[1]) < 1 << 34
