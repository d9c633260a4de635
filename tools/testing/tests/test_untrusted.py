# SPDX-License-Identifier: GPL-2.0
"""The untrusted host: block devices that have the shared memory and nothing else.

It reports everything that it is shown outside of that memory, and ccvm fails then.
"""

import json
import os
import re
import shutil
import subprocess

import pytest
import vm
from lib import machine
from lib.console import COMPLAINT

SOURCES = vm.TESTING / "untrusted-host"
WORKLOAD = ("--add", str(vm.TESTING / "workload"))
SHOWN = 119
MIB = 1 << 20
MEMORY = 1024 * MIB
# Shared memory, and all of it: private memory has no file that could be handed over.
REGIONS = [[machine.SHARED_BIT, MEMORY]]


def reports(result: vm.Result) -> list[dict]:
    """The report of each device at its end."""
    found = re.findall(r"^ccvm: vhost-blk \d+: (\{.*\})$", result.stderr, re.M)
    assert found, result.tail()
    return [json.loads(line) for line in found]


@pytest.mark.parametrize(
    "command",
    ["clippy --quiet --release --all-targets -- -D warnings", "test --release"],
    ids=["clippy", "test"],
)
def test_sources(command, tmp_path):
    """clippy has no complaints, and bad addresses are found in each place."""
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
sh /host/workload/disk vda ext4 8M && sh /host/workload/disk vdb none 8M
echo "disks: $?"
{vm.counters()}
""",
        *("--nvme", "0", "--blk", "0", "--vhost-blk", "2", *WORKLOAD),
        # Enough, so that the legacy pool has no part in it.
        *("--append", f"cc_swiotlb.watermark={vm.WRITE_BACK}"),
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
    """The bytes that the devices moved were copied, and little else was."""
    result = _honest()
    found = reports(result)
    moved = sum(each["written_bytes"] + each["read_bytes"] for each in found)
    requests = sum(each["requests"] for each in found)
    # Slots are counted: twice the payload at most, and small ones for header, table of
    # descriptors and status. The first requests came before the pool was there.
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
    """A guest without shared memory and a mode that does not exist are refused."""
    for options, words in (
        (("--guest", "plain"), "only a confidential guest has memory for it"),
        (("--vhost-mode", "friendly"), "invalid value 'friendly'"),
    ):
        result = vm.run("true", "--vhost-blk", "1", *options, status=vm.SETUP)
        assert words in result.stderr, result.tail()


# Hostile devices. Those of the first guest write to memory only while they are shown
# it, so that the disks beside them must lose nothing; meanwhile memory is shared and
# made private again, and the host refuses three of ten times or answers wrongly. Those of
# the second write anywhere.

SHOWN_ONLY = (
    *("honest", "late", "length", "change", "short", "status", "scribble"),
    *("twice", "index", "never"),
)
ANYWHERE = ("early", "scribble-all", "fill-all")
# Streams of events. Each event of other modes costs the driver its queue.
STREAMS = ("late", "length", "change", "short", "status", "scribble", "early")
HELD = 8

# Shell functions: kccd grows, gives back, and is refused, until the file is gone, and
# for longer if it takes longer until all of this has happened.
REFUSED = f"""
under_way=/tmp/under-way
enough() {{
	awk -v given=$given '
		/^conversion_failures:|^give_back_failures:|^wrong_answers:/ && $2 > 0 {{ n++ }}
		/^give_backs:/ && $2 > given {{ n++ }}
		END {{ exit n != 4 }}' {vm.STATS} {vm.EMULATION}
}}
come_and_go() {{
	given=$(sed -n 's/^give_backs: //p' {vm.STATS})
	more=50
	refuse=/sys/module/cc_emul/parameters/refuse
	echo 500 >{vm.PARAMETERS}/idle_ms
	set -- '' ,partly ,falsely
	: >$under_way
	while [ -e $under_way ] || {{ [ $((more -= 1)) -gt 0 ] && ! enough; }}; do
		echo "300$1" >$refuse
		echo 48M >{vm.PARAMETERS}/watermark
		sleep 2
		echo 4M >{vm.PARAMETERS}/watermark
		sleep 2
		set -- "$2" "$3" "$1"
	done
	echo 0 >$refuse
}}
"""
# The message of mainline, once, about a conversion that fails.
MAINLINE = "WARNING: at __set_memory_enc"


def _hostile(
    modes: tuple[str, ...], steps: str, seconds: int, *options: str
) -> vm.Result:
    names = ",".join(modes)
    result = vm.run(
        f"""
{vm.wait_ready()}
{vm.show("before", vm.STATS)}
echo '=== steps'
{steps}
echo '=== kernel'
dmesg | grep -c 'req.0:id'
{vm.counters()}
{vm.show("emulation", vm.EMULATION)}
""",
        *("--debug", "--blk", "0", "--nvme", "1", *WORKLOAD, *options),
        *("--vhost-blk", str(len(modes)), "--vhost-mode", names),
        *("--append", vm.LOG_SPACE),
        timeout=4 * seconds + 1200,
    )
    result.events = dict(zip(modes, reports(result), strict=True))
    return result


@vm.once
def _shown_only(seconds: int) -> vm.Result:
    load = f"{seconds}:nvme:verified,0,1,2,3:noisy,4,5,6:broken,7,8"
    return _hostile(
        SHOWN_ONLY,
        f"""
{REFUSED}
come_and_go &
sh /host/workload/hostile {load}
echo "hostile: $?"
rm $under_way
wait
sleep 3
{vm.show("after", vm.STATS)}
sh /host/workload/hostile held,9
sleep 3
""",
        seconds,
        "--allow-warnings",
    )


@vm.once
def _anywhere(seconds: int) -> vm.Result:
    return _hostile(
        ANYWHERE,
        f"""
sh /host/workload/hostile keep unbind,2 {seconds // 2}:noisy,0 kept \\
	unbind,nvme unbind,0 {seconds // 2}:broken,1 unbind,1 bind,2 \\
	{seconds // 2}:broken,2 bind,nvme kept 5:nvme bind,0 bind,1
echo "hostile: $?"
sleep 1
{vm.show("after", vm.STATS)}
""",
        seconds,
    )


@pytest.fixture(scope="module")
def seconds(request: pytest.FixtureRequest) -> int:
    """For how long there is I/O on hostile disks, in each guest."""
    return request.config.getoption("--hostile-seconds")


@pytest.fixture(params=[_shown_only, _anywhere], ids=["shown", "anywhere"])
def hostile(request, seconds) -> vm.Result:
    """Two guests, with what their devices and their kernels said."""
    return request.param(seconds)


class TestHostile:
    """Under KASAN, lockdep, UBSAN, DMA_API_DEBUG."""

    def test_nothing_is_reported(self, hostile):
        """Nothing but a refused conversion, about which mainline warns once."""
        refused = len(vm.lines(hostile.console, MAINLINE))
        assert refused == ("honest" in hostile.events)
        found = vm.lines(hostile.console, COMPLAINT.pattern)
        others = [line for line in found if MAINLINE not in line]
        assert all("Call Trace:" in line for line in others), others
        assert len(others) <= refused

    def test_honest_disks_lose_nothing(self, hostile):
        """Honest disks lose neither a byte nor a request, nor do merely odd ones."""
        assert "hostile: 0" in hostile.stdout, hostile.tail()
        rounds = re.findall(r"^verified: \w+ (\d+)$", hostile.stdout, re.M)
        assert len(rounds) == (5 if "honest" in hostile.events else 1)
        assert all(int(each) > 0 for each in rounds), rounds

    def test_counters_add_up(self, hostile):
        """All that was mapped was unmapped, nothing is lost, nobody misused it."""
        in_use, lent = (
            hostile.count(key, "after") - hostile.count(key, "before")
            for key in ("in_use_bytes", "lent_bytes")
        )
        assert in_use == 0
        # The pools of drivers for their lists do not shrink.
        assert abs(lent) <= 64 << 10
        held = [
            hostile.count("mapped", name) - hostile.count("unmapped", name)
            for name in ("before", "after")
        ]
        assert held[0] == held[1], held
        for key in ("misuse", "leaked_bytes"):
            assert hostile.count(key) == 0, key

    def test_refused(self, hostile):
        """Where conversions are refused, or wrongly answered, others are made as well."""
        failed = {
            key: hostile.count(f"{key}_failures") for key in ("conversion", "give_back")
        }
        done = hostile.count("give_backs") - hostile.count("give_backs", "before")
        wrong = hostile.count("wrong_answers", "emulation")
        if "honest" in hostile.events:
            assert min(*failed.values(), done, wrong) > 0, (failed, done, wrong)
        else:
            assert not any((*failed.values(), wrong)), (failed, wrong)
        assert hostile.count("bad_frees", "emulation") == 0

    def test_nothing_outside(self, hostile):
        """Whatever a device does, it is not shown anything outside shared memory."""
        for mode, report in hostile.events.items():
            assert report["outside"] == 0, (mode, report)
            assert report["regions"] == REGIONS

    def test_each_was_hostile(self, hostile):
        """Each device has made events, and the driver has seen the broken queues."""
        broken = 0
        for mode, report in hostile.events.items():
            events = report["hostile_events"]
            if mode == "honest":
                assert events == 0
            elif mode == "never":
                assert events == report["held"] == HELD
            elif mode in STREAMS:
                assert events >= 100, (mode, report)
            else:
                assert events >= 2, (mode, report)
                broken += 2
        assert int(hostile.section("kernel")) >= broken


def test_held_requests_are_held(seconds):
    """The mappings of held requests are the only ones left, the same for each."""
    result = _shown_only(seconds)
    left = result.count("mapped") - result.count("unmapped")
    # Header, payload, status, and the table of descriptors, unless that is lent.
    assert left in (HELD, 3 * HELD, 4 * HELD)


def test_hostile_events(seconds):
    """There were many hostile events."""
    counts = {
        mode: report["hostile_events"]
        for run in (_shown_only, _anywhere)
        for mode, report in run(seconds).events.items()
    }
    print(counts)
    assert sum(counts.values()) >= 100_000, counts


@pytest.mark.parametrize("swiotlb", ["cc", "legacy"])
def test_driver_has_no_time_out(swiotlb):
    """virtio-blk waits for ever for what never comes, whoever bounces."""
    result = vm.run(
        """
sh /host/workload/hostile held,0
sleep 5
for path in /proc/[0-9]*/status; do
	awk '$1 == "Name:" { name = $2 } $1 == "State:" { print "task:", name, $2 }' "$path"
done
""",
        *("--swiotlb", swiotlb, "--blk", "0", "--vhost-blk", "1", *WORKLOAD),
        *("--vhost-mode", "never"),
        timeout=200,
    )
    assert result.stdout.count("task: dd D") == HELD, result.tail()


def test_driver_knows_its_chains():
    """virtio_ring finds the end of a chain in its own memory, not in the device's."""
    result = vm.run(
        f"""
dd if=/dev/vda of=/dev/null bs=4k count=64 iflag=direct skip=140000 2>/dev/null
echo "read: $?"
{vm.counters()}
""",
        *("--blk", "0", "--nvme", "0", "--vhost-blk", "1", "--vhost-mode", "chain"),
    )
    (report,) = reports(result)
    assert report["hostile_events"] >= 64
    assert "read: 0" in result.stdout, result.tail()
    assert result.count("mapped") == result.count("unmapped") > 0
    assert result.count("misuse") == 0
