# SPDX-License-Identifier: GPL-2.0
"""Guests with several NUMA nodes: whose slots are used, and what becomes of them."""

import pytest
import vm

SPAN_BYTES = 512 << 10
CHUNK_BYTES = 2 << 20
# The bytes that 4 CPUs and 1 GiB keep ready, and those of each of two nodes.
WATERMARK = 16 << 20
SHARE = WATERMARK // 2

# CPUs 0 and 1 are on node 0, 2 and 3 on node 1.
MACHINE = ("--cpus", "4", "--mem", "1G", "--nodes", "2", "--blk", "0")
IDLE_MS = 600

LIBRARY = f"""
{vm.wait_ready()}
nodes() {{ echo "=== nodes $1"; cat {vm.NODES}; }}
shared() {{ awk '$1 == "shared_bytes:" {{ print $2 }}' {vm.STATS}; }}

# A disk, the CPUs it is used from, and what fio is to do.
verified() {{
	disk=$1 cpus=$2
	shift 2
	fio --name=n --filename=/dev/$disk --cpus_allowed=$cpus --direct=1 --thread \\
		--ioengine=libaio --iodepth=8 --rw=randwrite --size=8M --verify=crc32c \\
		--do_verify=1 --verify_fatal=1 "$@" >/tmp/fio-$disk 2>&1 ||
		cat /tmp/fio-$disk
	grep -c 'err= 0' /tmp/fio-$disk
}}

# Waits until no more than $1 bytes are shared, or not for ever.
back() {{
	for _ in $(seq 150); do
		[ "$(shared)" -le "$1" ] && break
		sleep 0.1
	done
	echo "back: $(shared)"
}}
"""


def _require_sums(result: vm.Result, nodes: str = "nodes end") -> None:
    """All CPUs are drained: each slot is in a depot or in use, each span is counted."""
    depots, of_nodes = result.depots(nodes), result.nodes(nodes)
    for name, row in result.classes().items():
        of_class = [of_node for key, of_node in depots.items() if key[1] == name]
        for column in ("slots", "free"):
            assert sum(of_node[column] for of_node in of_class) == row[column], name
        assert row["slots"] == row["free"] + row["in_use"], name
        # A node has whole spans, however its slots came and went.
        per_span = SPAN_BYTES // vm.slot_bytes(name)
        assert not any(of_node["slots"] % per_span for of_node in of_class), name
    for node, row in of_nodes.items():
        slots = {key[1]: each for key, each in depots.items() if key[0] == node}
        bound = sum(vm.slot_bytes(name) * each["slots"] for name, each in slots.items())
        free = sum(vm.slot_bytes(name) * each["free"] for name, each in slots.items())
        assert bound == (row["bound"] - row["lent"]) * SPAN_BYTES, node
        assert free + row["unbound"] * SPAN_BYTES == row["ready_bytes"], node
    spans = sum(row["bound"] + row["unbound"] for row in of_nodes.values())
    assert spans * SPAN_BYTES == result.count("shared_bytes")


def _require_no_failure(result: vm.Result) -> None:
    for key in ("refused", "fallback_legacy", "misuse", "leaked_bytes"):
        assert result.count(key) == 0, key


@vm.once
def _local() -> vm.Result:
    return vm.run(
        f"""
{LIBRARY}
echo 0 >{vm.PARAMETERS}/idle_ms
echo 1 >{vm.DRAIN}
nodes start
echo "=== near"; verified nvme0n1 0-1 --bs=4k
nodes near
echo 1 >{vm.DRAIN}
echo "=== far"; verified nvme1n1 2-3 --bs=4k
nodes far
# From both at a time, with blocks of all classes.
verified nvme0n1 3 --bsrange=512-256k >/tmp/a &
verified nvme1n1 0 --bsrange=512-256k >/tmp/b &
verified nvme2n1 1,2 --bsrange=4k-128k --cpus_allowed_policy=split --numjobs=2 \\
	--offset_increment=8M --group_reporting >/tmp/c
wait
echo "=== both"; cat /tmp/a /tmp/b /tmp/c
echo 1 >{vm.DRAIN}
{vm.steady(300)}
nodes end
{vm.counters()}
""",
        *(*MACHINE, "--nvme", "3", "--latency-ms", "5"),
    )


def test_verified():
    """I/O from CPUs of either node and of both at once: every byte is right."""
    result = _local()
    for name, disks in (("near", 1), ("far", 1), ("both", 3)):
        assert result.section(name) == "1\n" * disks, result.tail()
    _require_sums(result)
    _require_no_failure(result)


def _out(depot: dict[str, int]) -> int:
    """Slots of a depot that are with a CPU or a mapping."""
    return depot["slots"] - depot["free"]


@pytest.mark.parametrize("name,node", [("near", 0), ("far", 1)])
def test_local(name, node):
    """Slots come from the depot of the node whose CPUs map, and from no other."""
    result = _local()
    assert not any(map(_out, result.depots("nodes start").values()))
    depots = result.depots(f"nodes {name}")
    out = [_out(depots[place, "4K"]) for place in (0, 1)]
    # The slots that the CPUs hold afterwards are those that they have fetched.
    assert out[node] > 0, out
    assert out[1 - node] == 0, out


@vm.once
def _torture(module) -> vm.Result:
    # Threads move from CPU to CPU with what they have mapped, and leave some to others.
    return vm.run(
        f"""
{LIBRARY}
sh /host/torture/run -cm /host/{module.name} 15 hold=3 cycle=3000
echo "torture: $?"
echo {IDLE_MS} >{vm.PARAMETERS}/idle_ms
# The watermark, and less than a chunk on each node that nobody uses.
back {WATERMARK + 2 * CHUNK_BYTES}
{vm.steady(max(1000, 3 * IDLE_MS))}
echo 1 >{vm.DRAIN}
{vm.settle()}
nodes end
{vm.counters()}
""",
        *(*MACHINE, "--nvme", "0", "--append", "lpj=20000000"),
        *("--add", str(vm.TESTING / "torture"), "--add", str(module)),
    )


def test_torture(torture_module):
    """Mappings that end on another node than they began on leave the sums exact."""
    result = _torture(torture_module)
    said = vm.lines(result.stdout, "^torture: ")
    assert said[-2:] == ["torture: passed", "torture: 0"], said
    assert int(vm.lines(result.stdout, "^crossed ")[0].split()[1]) > 1000
    _require_sums(result)


def test_given_back_on_both(torture_module):
    """After a load each node has its watermark and less than a chunk more."""
    result = _torture(torture_module)
    assert result.count("give_backs") > 4
    for node, row in result.nodes("nodes end").items():
        assert row["ready_bytes"] >= SHARE, (node, row)
        assert row["unbound"] * SPAN_BYTES < SHARE + CHUNK_BYTES, (node, row)
        # Nothing is in use: a span that is bound all the same has a slot of a driver.
        assert row["bound"] <= row["lent"] + 1, (node, row)
    assert result.count("shared_bytes") <= WATERMARK + 2 * CHUNK_BYTES


def test_slots_of_another_node():
    """At the cap, a node goes on with the slots of another one."""
    result = vm.run(
        f"""
{LIBRARY}
echo 0 >{vm.PARAMETERS}/idle_ms
shared >{vm.PARAMETERS}/max
echo 1 >{vm.DRAIN}
nodes before
echo "=== fio"
fio --name=n --filename=/dev/nvme0n1 --cpus_allowed=2-3 --direct=1 --thread --rw=read \
	--ioengine=libaio --iodepth=10 --bs=512k --size=64M --time_based --runtime=3 \
	>/tmp/fio 2>&1
grep -c 'err= 0' /tmp/fio
echo 1 >{vm.DRAIN}
{vm.steady(300)}
nodes end
{vm.counters()}
""",
        *(*MACHINE, "--nvme", "1", "--latency-ms", "300"),
        *("--append", "cc_swiotlb.watermark=8M"),
    )
    assert result.section("fio") == "1\n", result.tail()
    _require_no_failure(result)
    # All that node 1 had was not enough: the other node's spans were used as well.
    before, end = (result.nodes(f"nodes {name}") for name in ("before", "end"))
    had = before[1]["bound"] + before[1]["unbound"]
    assert end[1]["demand"] >= had // 2, result.tail()
    assert end[0]["demand"] > before[0]["demand"], result.tail()
    assert result.count("peak_shared_bytes") == result.count("shared_bytes")
    # They went home again.
    _require_sums(result)
    # Except for memory that a driver borrows as it goes, for its lists, if its queue
    # got that deep.
    for node in (0, 1):
        lent = end[node]["lent"] - before[node]["lent"]
        assert end[node]["bound"] - lent == before[node]["bound"], node
        assert end[node]["unbound"] + lent == before[node]["unbound"], node


@pytest.mark.parametrize(
    "nodes,empty",
    [("4:512M,0:512M", {1}), ("2:1G,2:0M", set()), ("2:944M,2:80M", set())],
    ids=["no-cpus", "no-memory", "little-memory"],
)
def test_lopsided(nodes, empty):
    """A node without CPUs has no slots; one without memory has, in others' memory."""
    result = vm.run(
        f"""
{LIBRARY}
verified nvme0n1 0 --bsrange=512-256k >/tmp/a &
verified nvme1n1 3 --bsrange=512-256k >/tmp/b
wait
echo "=== both"; cat /tmp/a /tmp/b
echo 1 >{vm.DRAIN}
{vm.steady(300)}
nodes end
{vm.counters()}
""",
        *("--cpus", "4", "--mem", "1G", "--nodes", nodes, "--nvme", "2", "--blk", "0"),
    )
    assert result.section("both") == "1\n1\n", result.tail()
    _require_sums(result)
    _require_no_failure(result)
    for node, row in result.nodes("nodes end").items():
        if node in empty:
            assert row["bound"] == row["unbound"] == row["ready_bytes"] == 0, node
        else:
            assert row["ready_bytes"] >= WATERMARK // (2 - len(empty)), (node, row)
