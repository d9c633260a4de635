# SPDX-License-Identifier: GPL-2.0
"""Many readers from idle, in memory that is free in single pages only.

A few of the bursts that ``make bursts`` runs: the hardest ones, shortened. The bounds
are in lib/burst/targets.py.
"""

from collections.abc import Callable

import pytest
import vm
from lib.burst import guest, report, targets

READERS = 160
# The guests that are compared ran one after the other, on a host that may be busy with
# other things: one round out of so many has to show the result.
ROUNDS = 3

# Virtio-blk maps under a spinlock, a page at a time, and the host is slow.
SLOW = {"bus": "blk", "scattered": True, "fragmented": True, "convert_us": 260}
SLOW_S = 12
# NVMe, and the burst comes back every 20 s.
AGAIN = {"bus": "nvme", "scattered": True, "fragmented": True, "convert_us": 23}
AGAIN_S = 12

# A second of load every 15 s.
SPELLS = 3

SLOTS_IN_CACHES = 512
MIB = 1 << 20


@vm.once
def _slow(impl: str, _number: int) -> report.Report:
    # The same load for all: readers that have ended leave the pool to the others.
    load = f"-t {SLOW_S}"
    if impl == "cc":
        return guest.run(guest.Burst(load=load, **SLOW))
    start = _slow("cc", 0).start_shared
    return guest.run(guest.Burst(impl=impl, load=load, start_bytes=start, **SLOW))


@vm.once
def _again(impl: str, _number: int) -> report.Report:
    rounds = "-n 2 -e 20" if impl == "cc" else ""
    return guest.run(guest.Burst(impl=impl, load=f"-t {AGAIN_S} {rounds}", **AGAIN))


def _require(*tried: targets.Target) -> None:
    said = [f"{each.name}: {each.measured}, wanted: {each.wanted}" for each in tried]
    assert any(each.met for each in tried), "\n".join(said)


def _require_once(judge: Callable[[int], targets.Target]) -> None:
    tried = []
    for number in range(ROUNDS):
        tried.append(judge(number))
        if tried[-1].met:
            break
    _require(*tried)


GOOD = {
    "errors": 0,
    "hung": 0,
    "again": 0,
    "all_done_s": 12.0,
    "transfers": 1000,
    "last_refusal_s": 1.9,
    "peak_shared_mib": 150.0,
    "peak_used_mib": 100.0,
    "start_shared_mib": 24.0,
    "wasted": 0.1,
    "page_us": 23.0,
}
STATIC = {"all_done_s": 11.0, "transfers": 1100}
DYNAMIC = {"all_done_s": 12.1}


@pytest.mark.parametrize(
    "key,bad",
    [
        ("errors", 1),
        ("hung", 1),
        ("again", 1),
        ("all_done_s", 12.5),
        ("all_done_s", None),
        ("transfers", 980),
        ("last_refusal_s", 2.1),
        ("peak_shared_mib", 151.0),
        ("wasted", 0.11),
    ],
)
def test_targets_are_met_and_missed(key, bad):
    """Each target is met by good figures, and missed by bad ones."""
    good = targets.judge(GOOD, STATIC, DYNAMIC, 23)
    assert len(good) == 8 and all(each.met for each in good)
    missed = targets.judge(GOOD | {key: bad}, STATIC, DYNAMIC, 23)
    assert not all(each.met for each in missed)


def test_bounds_stretch_with_conversions():
    """If a page took four times as long, refusals may last four times as long."""
    slow = GOOD | {"page_us": 92.0}
    assert targets.refused_early(slow | {"last_refusal_s": 7.9}, 23).met
    assert not targets.refused_early(slow | {"last_refusal_s": 8.1}, 23).met
    # 160 MiB at 23 us are 0.94 s.
    assert targets.in_time(slow | {"all_done_s": 16.6}, STATIC, READERS, 23).met
    assert not targets.in_time(slow | {"all_done_s": 16.7}, STATIC, READERS, 23).met


SAMPLES = """\
4.10
round 0 start 10000
worker 0 0 dr 900 7 0 0
worker 0 1 dr -1 0 2 5
round 1 start 30000
worker 1 0 dr 100 3 0 0
worker 1 1 dr 110 3 0 0
sample 9900 shared_bytes=20000000 refused=0 4K.in_use=0 4K.mapped=0 disk_read_bytes=0
sample 11000 4K.in_use=100 4K.mapped=300 refused=9 disk_read_bytes=409600
sample 31000 4K.in_use=90 4K.mapped=500 disk_read_bytes=819200
sample 32000 refused=12 4K.in_use=0
sample 33000 4K.in_use=200 refused=15
ended 34000
"""


def test_samples_are_read():
    """The figures are those in the output of the program."""
    run = report.Report(SAMPLES)
    first, second = run.rounds
    assert (first.done_after(1), first.all_done_s, first.errors) == (1, None, 2)
    assert (second.all_done_s, second.transfers) == (0.11, 6)
    assert (run.boot_s, run.last_refusal_s(0), run.last_refusal_s(1)) == (4.1, 1, 3)
    # 300 pages were copied, 100 are held, 100 were read.
    assert run.wasted_share() == pytest.approx(1 / 3)
    assert (run.refused_in(0), run.refused_in(1)) == (9, 6)
    # The second round held more than the first at one time.
    assert run.refused_again() == 0
    less = report.Report(SAMPLES.replace("4K.in_use=200", "4K.in_use=100"))
    assert less.refused_again() == 6


@pytest.mark.alone
class TestSlowHost:
    """260 us for a page, so that 160 MiB take eleven seconds."""

    def test_buffers_are_scattered(self):
        """The control: buffers and free memory consist of single pages."""
        run = _slow("cc", 0)
        # Two of 40,000 pages were once neighbours by chance.
        assert run.pieces > 255
        assert run.free_blocks("after")[0] > 100_000
        assert sum(run.free_blocks("after")[1:10]) < 10_000

    def test_unharmed(self):
        """No I/O error and no hang."""
        _require(targets.unharmed(_slow("cc", 0).figures()))

    def test_in_time(self):
        """All readers are done about as soon as their bytes can be converted."""

        def judge(number: int) -> targets.Target:
            static = _slow("static", number).figures()
            own = _slow("cc", number).figures()
            return targets.in_time(own, static, READERS, 260)

        _require_once(judge)

    def test_before_dynamic(self):
        """They are also done before swiotlb has grown so far, from no more memory."""

        def judge(number: int) -> targets.Target:
            dynamic = _slow("dynamic", number).figures()
            # The control: the largest power of two that is no more than that.
            assert start / 2 < dynamic["start_shared_mib"] <= start
            return targets.before_dynamic(_slow("cc", number).figures(), dynamic)

        start = _slow("cc", 0).start_shared / MIB
        _require_once(judge)

    def test_bounded(self):
        """Not much more is shared than was in use."""
        _require_once(lambda number: targets.bounded(_slow("cc", number).figures()))

    def test_not_in_vain(self):
        """Requests that are refused were refused before much of them was copied."""
        _require_once(lambda number: targets.not_in_vain(_slow("cc", number).figures()))


@pytest.mark.alone
class TestAgain:
    """23 us for a page; the burst comes back every 20 s."""

    def test_unharmed(self):
        """No I/O error and no hang."""
        _require(targets.unharmed(_again("cc", 0).figures()))

    def test_refused_early(self):
        """Nothing is refused later than 2 s after the start."""
        _require_once(
            lambda number: targets.refused_early(_again("cc", number).figures(), 23)
        )

    def test_not_refused_again(self):
        """The second time nothing is refused."""
        assert len(_again("cc", 0).rounds) == 2
        _require_once(lambda number: targets.remembered(_again("cc", number).figures()))

    def test_throughput(self):
        """As much is transferred as over a static pool."""

        def judge(number: int) -> targets.Target:
            static = _again("static", number).figures()
            return targets.throughput(_again("cc", number).figures(), static)

        _require_once(judge)

    def test_bounded(self):
        """Not much more is shared than was in use."""
        _require_once(lambda number: targets.bounded(_again("cc", number).figures()))


def test_all_kinds_at_once():
    """virtio-scsi, AHCI, the page cache, readers and writers: no error, no hang."""
    # Not fragmented: virtio-scsi would be short of memory for its own lists, two pages
    # at a time, and the kernel would complain.
    run = guest.run(
        guest.Burst(
            bus="scsi+ahci",
            scattered=True,
            convert_us=23,
            readers=60,
            load="-w 20 -R 60 -W 20 -t 8",
        )
    )
    _require(targets.unharmed(run.figures()))
    kinds = {worker.kind for worker in run.rounds[0].workers}
    assert kinds == {"dr", "dw", "br", "bw"}
    assert run.growth("disk_read_bytes") > 0 and run.growth("disk_written_bytes") > 0


@vm.once
def _one_page_each() -> report.Report:
    return guest.run(
        guest.Burst(
            disks=1, cpus=32, readers=32, load="-s 4 -p -t 4", append="lpj=4000000"
        )
    )


class TestManyCpus:
    """32 CPUs, each with one page in flight."""

    def test_unharmed(self):
        """No I/O error and no hang; each has read."""
        run = _one_page_each()
        _require(targets.unharmed(run.figures()))
        assert run.rounds[0].all_done_s is not None

    def test_no_fallback(self):
        """Each CPU finds a slot of its own size."""
        run = _one_page_each()
        assert run.growth("fallback_legacy") == 0
        assert run.over_classes("fallback_larger") == 0

    def test_caches_are_small(self):
        """The caches of CPUs stay small."""
        assert _one_page_each().most("4K.cached") <= SLOTS_IN_CACHES


class TestSpells:
    """A second of load every 15 s, while a page takes 260 us."""

    def test_memory_stays(self):
        """The memory that a spell needed stays: nothing is converted twice."""
        run = guest.run(
            guest.Burst(convert_us=260, load=f"-t 1 -e 15 -n {SPELLS}", timeout_s=600)
        )
        _require(targets.unharmed(run.figures()))
        first = run.rounds[1].start_ms - run.rounds[0].start_ms
        once = run.converted(last_s=first / 1000)
        assert once > 0, "the control: the first spell needed memory"
        assert run.growth(*report.GIVE_BACKS) == 0
        assert run.converted() == run.growth("shared_bytes")
