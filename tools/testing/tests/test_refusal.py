# SPDX-License-Identifier: GPL-2.0
"""A host that refuses to convert memory, for a while or now and then.

--refusal-seconds says for how long it refuses everything.
"""

import re

import pytest
import vm

MIB = 1 << 20
CHUNK = 2 * MIB
CHUNK_PAGES = CHUNK >> 12
# Less than what is asked for.
CAP = 96 * MIB

# Not NVMe, whose driver makes the kernel add to its own pool of coherent memory: that
# loses memory as well when it is refused.
DISK = ("--nvme", "0", "--blk", "1", "--null-ms", "1000")

REFUSE = "/sys/module/cc_emul/parameters/refuse"
TRACING = "/sys/kernel/tracing"

LIBRARY = f"""
{vm.wait_ready()}
sleep 1
value() {{ awk -v key="$2:" '$1 == key {{ print $2 }}' "$1"; }}
shared() {{ value {vm.STATS} shared_bytes; }}

# 256 requests of 512 KiB at a time for $1 seconds, on a disk that holds them for 1 s.
load() {{
	fio --name=x --thread --filename=/dev/vda --direct=1 --ioengine=libaio \\
		--rw=randread --iodepth=64 --numjobs=4 --bs=512k --size=1G \\
		--time_based --runtime="$1" --group_reporting >/tmp/fio 2>&1
	echo "fio: $?"
}}
"""


@pytest.fixture(scope="module")
def seconds(request: pytest.FixtureRequest) -> int:
    """For how long everything is refused."""
    return request.config.getoption("--refusal-seconds")


@vm.once
def _refused(direction: str, nodes: int, seconds: int) -> vm.Result:
    """The load from idle, while the host refuses everything and after that."""
    result = vm.run(
        f"""
{LIBRARY}
before=$(shared)
{vm.show("before", vm.STATS)}
echo 1000{direction} >{REFUSE}
load {seconds * 5 // 4 + 6} &
# A look a second takes longer than that on a busy host.
until=$(($(date +%s) + {seconds}))
while [ "$(date +%s)" -lt $until ]; do
	sleep 1
	echo "astray: $(value {vm.EMULATION} mismatched_now)"
	awk '$1 == "State:" {{ print "kccd:", $2 }}' "/proc/$(pidof kccd)/status"
done
{vm.show("during", vm.STATS)}
{vm.show("emulation", vm.EMULATION)}
echo 1 >{TRACING}/events/cc_swiotlb/cc_swiotlb_refill/enable
echo granted >{TRACING}/trace_marker
echo 0 >{REFUSE}
for i in $(seq 400); do
	[ "$(shared)" -gt "$before" ] && break
	sleep 0.05
done
echo 0 >{TRACING}/events/cc_swiotlb/cc_swiotlb_refill/enable
echo '=== growth'; grep -E ': (tracing_mark_write|cc_swiotlb_refill): ' {TRACING}/trace
wait
# More than may be shared.
echo 128M >{vm.PARAMETERS}/watermark
for i in $(seq 100); do
	[ "$(shared)" -gt {CAP - CHUNK} ] && break
	sleep 0.1
done
{vm.counters()}
{vm.show("emulation after", vm.EMULATION)}
{vm.log()}
""",
        *DISK,
        *("--cpus", "4", "--mem", "2G", "--nodes", str(nodes), "--allow-warnings"),
        *("--append", f"cc_swiotlb.max={CAP} {vm.LOG_SPACE}"),
        timeout=seconds * 5 // 4 + 120,
    )
    # Only the kernel's own warning is allowed, which comes once.
    for line in vm.lines(result.section("log"), r"WARNING:|BUG:"):
        assert "WARNING: at __set_memory_enc" in line, line
    return result


@pytest.mark.parametrize(
    "direction,nodes", [("", 2), (",share", 1)], ids=["both", "share"]
)
class TestRefusedForAWhile:
    """All conversions are refused, or all but those that make memory private."""

    def test_load_survives(self, direction, nodes, seconds):
        """No request fails, and the host was really asked, and refused."""
        result = _refused(direction, nodes, seconds)
        assert "fio: 0" in result.stdout, result.tail()
        assert not vm.lines(result.console, "I/O error|lockup|stall")
        assert result.count("share_refused", "emulation") >= 2

    def test_one_chunk_is_astray(self, direction, nodes, seconds):
        """One chunk at most is neither usable nor in a pool, however long it lasts."""
        result = _refused(direction, nodes, seconds)
        astray = list(map(int, re.findall(r"^astray: (\d+)$", result.stdout, re.M)))
        assert len(astray) >= seconds // 4
        assert max(astray) <= CHUNK_PAGES
        assert result.count("leaked_bytes", "during") <= CHUNK

    def test_kccd_is_no_load(self, direction, nodes, seconds):
        """While there is nothing that it can do, kccd sleeps, and is rung in vain."""
        result = _refused(direction, nodes, seconds)
        states = re.findall(r"^kccd: (\w)", result.stdout, re.M)
        assert len(states) >= seconds // 4
        # Uninterruptible sleep counts in the load average.
        assert states.count("D") <= len(states) // 4, states

    def test_growth_is_back_within_a_second(self, direction, nodes, seconds):
        """A chunk is shared within a second after the host grants it.

        If others use the machine's CPUs, one guest may be late, but not three.
        """
        times = []
        for length in (seconds, 8, 9):
            result = _refused(direction, nodes, length)
            found = re.findall(r"(\d+\.\d+): (\w+): ", result.section("growth"))
            assert [event for _, event in found[:2]] == [
                "tracing_mark_write",
                "cc_swiotlb_refill",
            ]
            times.append(float(found[1][0]) - float(found[0][0]))
            if times[-1] <= 1.0:
                break
        assert times[-1] <= 1.0, times

    def test_cap_is_untouched(self, direction, nodes, seconds):
        """All memory that may be shared can be shared afterwards."""
        result = _refused(direction, nodes, seconds)
        assert result.count("max_bytes") == result.count("max_bytes", "before") == CAP
        assert CAP - CHUNK < result.count("shared_bytes") <= CAP

    def test_nothing_is_left(self, direction, nodes, seconds):
        """Memory that was astray is in the pools, or was freed as private memory."""
        result = _refused(direction, nodes, seconds)
        for key in ("mismatched_now", "unaccepted_now", "bad_frees"):
            assert result.count(key, "emulation after") == 0, key
        assert result.count("leaked_bytes") == 0


@vm.once
def _now_and_then(how: str) -> vm.Result:
    return vm.run(
        f"""
{LIBRARY}
echo 400 >{vm.PARAMETERS}/idle_ms
echo 300{how} >{REFUSE}
for round in 1 2 3 4; do
	load 2
	sleep 2
done
echo 0 >{REFUSE}
sleep 3
{vm.counters()}
{vm.show("emulation", vm.EMULATION)}
""",
        *DISK,
        *("--cpus", "4", "--mem", "2G", "--allow-warnings"),
        timeout=180,
    )


@pytest.mark.parametrize("how", ["", ",partly"], ids=["", "partly"])
def test_refused_now_and_then(how):
    """Three of ten conversions are refused, both ways: nothing is lost by that.

    Nothing is lost either if the host has converted a part that it says it has not.
    """
    result = _now_and_then(how)
    assert result.stdout.count("fio: 0") == 4, result.tail()
    assert result.count("share_refused", "emulation") > 0
    assert result.count("unshare_refused", "emulation") > 0
    assert (result.count("wrong_answers", "emulation") > 0) == bool(how)
    for key in ("mismatched_now", "unaccepted_now", "bad_frees"):
        assert result.count(key, "emulation") == 0, key
    assert result.count("leaked_bytes") == 0


def test_granted_falsely():
    """The host says that it has converted memory, but has not: none of it is freed.

    Memory that the host has not shared cannot be made private either. It is then shared
    in truth, and made private the next time.
    """
    result = _now_and_then(",falsely")
    assert result.stdout.count("fio: 0") == 4, result.tail()
    assert result.count("wrong_answers", "emulation") > 0
    assert result.count("bad_accepts", "emulation") > 0
    assert result.count("bad_frees", "emulation") == 0
    # The pool has the memory that the guest believes to be shared.
    astray = result.count("mismatched_now", "emulation") << 12
    assert astray <= result.count("shared_bytes")
    assert result.count("leaked_bytes") == 0
