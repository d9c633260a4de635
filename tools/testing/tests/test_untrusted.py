# SPDX-License-Identifier: GPL-2.0
"""The untrusted host: block devices that have the shared memory and nothing else.

It reports all that it is shown outside of it, and ccvm fails then.
"""

import json
import os
import re
import shutil
import subprocess

import pytest
import vm
from lib import machine

SOURCES = vm.TESTING / "untrusted-host"
WORKLOAD = ("--add", str(vm.TESTING / "workload"))
SHOWN = 119
MIB = 1 << 20
MEMORY = 1024 * MIB
# Shared memory, and all of it: private memory has no file that could be handed over.
REGIONS = [[machine.SHARED_BIT, MEMORY]]


def reports(result: vm.Result) -> list[dict]:
    """What each device said at its end."""
    found = re.findall(r"^ccvm: vhost-blk \d+: (\{.*\})$", result.stderr, re.M)
    assert found, result.tail()
    return [json.loads(line) for line in found]


@pytest.mark.parametrize(
    "command",
    ["clippy --quiet --release --all-targets -- -D warnings", "test --release"],
    ids=["clippy", "test"],
)
def test_sources(command, tmp_path):
    """clippy has nothing to say, and what is outside is found in each place."""
    sources = shutil.copytree(SOURCES, tmp_path / "sources")
    cache = f"{os.environ['CC_SWIOTLB_CACHE']}/rust/untrusted-host"
    settings = {"CARGO_HOME": f"{cache}/cargo", "CARGO_TARGET_DIR": f"{cache}/target"}
    done = subprocess.run(
        ["cargo", *command.split()],
        cwd=sources,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"^test result: ok. (\d+) passed", done.stdout, re.M)
    assert "test" not in command.split() or int(passed[1]) >= 5, done.stdout


@vm.once
def _honest() -> vm.Result:
    return vm.run(
        f"""
{vm.wait_ready()}
sh /host/workload/disk vda xfs 8M && sh /host/workload/disk vdb none 8M
echo "disks: $?"
{vm.counters()}
""",
        *("--nvme", "0", "--blk", "0", "--vhost-blk", "2", *WORKLOAD),
        timeout=300,
    )


def test_honest():
    """File systems and fio with verify, and not a descriptor outside shared memory."""
    result = _honest()
    assert "disks: 0" in result.stdout, result.tail()
    found = reports(result)
    assert len(found) == 2
    for report in found:
        assert report["outside"] == 0 and not report["reports"], report
        assert report["hostile_events"] == report["held"] == 0
        assert report["regions"] == REGIONS
        assert report["requests"] > 1000
        # 8 MiB twice, and on one of them files of as much.
        assert report["written_bytes"] >= 16 * MIB
        assert report["read_bytes"] >= 16 * MIB


def test_all_is_bounced():
    """What the devices moved is what was copied, and little else."""
    result = _honest()
    found = reports(result)
    moved = sum(each["written_bytes"] + each["read_bytes"] for each in found)
    requests = sum(each["requests"] for each in found)
    # What counts is slots: twice the payload at most, and small ones for header, table
    # of descriptors and status. The first requests came before the pool was there.
    slots = result.count("mapped_bytes")
    assert moved - MIB <= slots <= 2 * moved + 3 * 2048 * requests, (moved, slots)
    assert result.count("mapped") - result.count("unmapped") == 0
    assert result.count("misuse") == 0


def test_outside_is_reported():
    """The positive control: devices for which shared memory ends earlier."""
    result = vm.run(
        "dd if=/dev/vda of=/dev/null bs=4k count=16 iflag=direct; echo done",
        *("--nvme", "0", "--blk", "0", "--vhost-blk", "1", "--vhost-window", "16"),
        status=SHOWN,
    )
    (report,) = reports(result)
    assert report["outside"] >= 1
    assert report["reports"][0].startswith(("buffer at 0x10", "indirect table at 0x10"))
    assert "times outside shared memory" in result.stderr


def test_what_cannot_be():
    """A guest without shared memory, a mode that there is not."""
    for options, words in (
        (("--guest", "plain"), "only a confidential guest has memory for it"),
        (("--vhost-mode", "friendly"), "invalid value 'friendly'"),
    ):
        result = vm.run("true", "--vhost-blk", "1", *options, status=vm.SETUP)
        assert words in result.stderr, result.tail()
