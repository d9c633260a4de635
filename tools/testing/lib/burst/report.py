# SPDX-License-Identifier: GPL-2.0
"""The result of a burst, from the output of the program workload/burst."""

import dataclasses
import functools
import re

from lib.failure import Failure

MIB = 1 << 20
CHUNK_BYTES = 2 * MIB
PAGE_BYTES = 4096
SLOT_BYTES = 2048
"""A slot of swiotlb."""

# Names of a counter, the present one first.
REFUSED = ("refused", "exhausted")
PEAK_SHARED = ("peak_shared_bytes", "shared_peak_bytes")
GIVE_BACKS = ("give_backs", "given_back")


@dataclasses.dataclass(frozen=True)
class Worker:
    """What one thread did in one round."""

    kind: str
    first_ms: int
    """Until its first transfer was done; -1 if none ever was."""
    transfers: int
    errors: int
    errno: int


@dataclasses.dataclass(frozen=True)
class Round:
    """A round: when it began, and its workers."""

    start_ms: int
    workers: list[Worker]

    def done_after(self, seconds: float) -> int:
        """Workers whose first transfer was done by then."""
        return sum(0 <= each.first_ms <= 1000 * seconds for each in self.workers)

    @property
    def all_done_s(self) -> float | None:
        """When the last worker had done its first transfer."""
        if any(each.first_ms < 0 for each in self.workers):
            return None
        return max(each.first_ms for each in self.workers) / 1000

    @property
    def errors(self) -> int:
        """Transfers that failed."""
        return sum(each.errors for each in self.workers)

    @property
    def transfers(self) -> int:
        """Transfers that were done within the round."""
        return sum(each.transfers for each in self.workers)


@dataclasses.dataclass(frozen=True)
class Sample:
    """All counters at one time, in milliseconds since the guest has booted."""

    ms: int
    counters: dict[str, int]

    def get(self, *names: str) -> int:
        """A counter, by the first of these names that exists; 0 if none does."""
        for name in names:
            if name in self.counters:
                return self.counters[name]
        return 0


def _class_bytes(name: str) -> int:
    return int(name.removesuffix("K")) * (1024 if name.endswith("K") else 1)


def _bytes_of(sample: Sample, column: str) -> int:
    """The bytes of all slots that a column of the table of classes counts."""
    return sum(
        value * _class_bytes(key.partition(".")[0])
        for key, value in sample.counters.items()
        if key.endswith(f".{column}")
    )


class Report:
    """The output of one run of the program."""

    def __init__(self, text: str, log: str = ""):
        self.text = text
        self.log = log
        self.rounds = self._read_rounds()
        self.samples = self._read_samples()
        if not self.rounds or not self.samples or "\nended " not in text:
            raise Failure(f"the burst did not come to an end:\n{text[-2000:]}")

    def _read_rounds(self) -> list[Round]:
        workers: dict[int, list[Worker]] = {}
        starts: dict[int, int] = {}
        for line in self.text.splitlines():
            match line.split():
                case ["round", number, "start", start]:
                    starts[int(number)] = int(start)
                case ["worker", number, _, kind, first, transfers, errors, errno]:
                    workers.setdefault(int(number), []).append(
                        Worker(
                            kind, int(first), int(transfers), int(errors), int(errno)
                        )
                    )
        return [Round(starts[each], workers.get(each, [])) for each in sorted(starts)]

    def _read_samples(self) -> list[Sample]:
        found = []
        now: dict[str, int] = {}
        for line in self.text.splitlines():
            words = line.split()
            if words[:1] != ["sample"]:
                continue
            for word in words[2:]:
                name, _, value = word.partition("=")
                now[name] = int(value)
            found.append(Sample(int(words[1]), dict(now)))
        return found

    def _number(self, pattern: str) -> float | None:
        found = re.search(pattern, self.text, re.M)
        return float(found.group(1)) if found else None

    @property
    def boot_s(self) -> float | None:
        """The time from the start of the kernel to the command."""
        return self._number(r"^(\d+\.\d+)$")

    @property
    def pieces(self) -> float | None:
        """The average number of pieces of physical memory in a buffer."""
        return self._number(r"^pieces (\S+)$")

    @property
    def hung(self) -> int:
        """Workers that never came back."""
        return int(self._number(r"^hung (\d+)$") or 0)

    def at(self, ms: float) -> Sample:
        """The last sample before a time."""
        before = [each for each in self.samples if each.ms <= ms]
        return before[-1] if before else self.samples[0]

    def growth(self, *names: str, first_s: float = 0, last_s: float = 1e6) -> int:
        """The growth of a counter between times, in seconds from the first round on."""
        start = self.rounds[0].start_ms
        begin = self.at(start + 1000 * first_s)
        return self.at(start + 1000 * last_s).get(*names) - begin.get(*names)

    def most(self, *names: str) -> int:
        """The largest value of a counter in any sample."""
        return max(each.get(*names) for each in self.samples)

    def over_classes(self, column: str) -> int:
        """The growth of a column of the table of classes, over all classes."""
        names = [key for key in self.samples[-1].counters if key.endswith(f".{column}")]
        return sum(self.growth(name) for name in names)

    def free_blocks(self, when: str) -> list[int]:
        """Free blocks of memory of each order, before or after the set-up."""
        found = re.search(rf"^free {when} (.*)$", self.text, re.M)
        return [int(word) for word in found.group(1).split()] if found else []

    def converted(self, first_s: float = 0, last_s: float = 1e6) -> int:
        """Bytes made shared between two times, in seconds from the first round on."""
        if "conversion_bytes" in self.samples[-1].counters:
            return self.growth("conversion_bytes", first_s=first_s, last_s=last_s)
        chunks = self.growth("conversions", first_s=first_s, last_s=last_s)
        return CHUNK_BYTES * chunks

    @property
    def page_us(self) -> float | None:
        """The time to convert a page, if cc_swiotlb reports it."""
        pages = self.converted() / PAGE_BYTES
        if not pages or "conversion_ns" not in self.samples[-1].counters:
            return None
        return self.growth("conversion_ns") / pages / 1000

    @functools.cached_property
    def refused(self) -> int | None:
        """Mappings that could not be served."""
        if self.serves_cc:
            return self.growth(*REFUSED)
        # swiotlb does not count them. Its messages are limited, and tell by how much.
        printed = len(re.findall(r"swiotlb buffer is full", self.log))
        kept_back = re.findall(r"swiotlb\w*: (\d+) callbacks suppressed", self.log)
        return printed + sum(map(int, kept_back))

    @property
    def serves_cc(self) -> bool:
        """Whether cc_swiotlb served this guest."""
        return self.samples[0].get("chunks", "shared_bytes") > 0

    def _end_ms(self, number: int) -> float:
        """The start of the next round."""
        if number + 1 < len(self.rounds):
            return self.rounds[number + 1].start_ms
        return float("inf")

    def refused_in(self, number: int) -> int:
        """Mappings that were refused from the start of a round to the next."""
        before = self.at(self.rounds[number].start_ms)
        return self.at(self._end_ms(number)).get(*REFUSED) - before.get(*REFUSED)

    def peak_used_in(self, number: int) -> int:
        """The most that mappings held in that round, as sampled."""
        start, end = self.rounds[number].start_ms, self._end_ms(number)
        within = [each for each in self.samples if start <= each.ms < end]
        return max((self.used(each) for each in within), default=0)

    def refused_again(self) -> int:
        """Mappings refused after the first round, in rounds that needed no more.

        A round that has more in flight than all before it may well be refused some.
        """
        found, most = 0, self.peak_used_in(0)
        for number in range(1, len(self.rounds)):
            used = self.peak_used_in(number)
            if used <= most:
                found += self.refused_in(number)
            most = max(most, used)
        return found

    def last_refusal_s(self, number: int = 0) -> float | None:
        """When a mapping was refused last in a round, in seconds from its start."""
        start, end = self.rounds[number].start_ms, self._end_ms(number)
        last = None
        for before, after in zip(self.samples, self.samples[1:], strict=False):
            grew = after.get(*REFUSED) > before.get(*REFUSED)
            if grew and start <= after.ms < end:
                last = (after.ms - start) / 1000
        return last

    @property
    def start_shared(self) -> int:
        """The bytes that were shared before the burst, the legacy pool included."""
        first = self.samples[0]
        if self.serves_cc:
            return first.get("shared_bytes") + first.get("legacy_bytes")
        return SLOT_BYTES * first.get("io_tlb_nslabs")

    @property
    def peak_shared(self) -> int:
        """The most that was shared, as sampled, without cc_swiotlb's legacy pool."""
        if self.serves_cc:
            return self.most("shared_bytes")
        return SLOT_BYTES * self.most("io_tlb_nslabs")

    @property
    def peak_used(self) -> int:
        """The most that mappings held, as sampled."""
        if self.serves_cc:
            return max(self.used(each) for each in self.samples)
        return SLOT_BYTES * self.most("io_tlb_used")

    @staticmethod
    def used(sample: Sample) -> int:
        """Bytes of the slots that mappings hold."""
        if "in_use_bytes" in sample.counters:
            return sample.get("in_use_bytes")
        return _bytes_of(sample, "in_use")

    @staticmethod
    def copied(sample: Sample) -> int:
        """Bytes that were copied into slots."""
        if "copied_bytes" in sample.counters:
            return sample.get("copied_bytes")
        # Each mapping is assumed to be as large as its slot.
        return _bytes_of(sample, "mapped")

    def wasted_share(self) -> float | None:
        """The share of the bytes copied while mappings were refused that was in vain.

        Data in a slot is transferred by a disk, is still in use, or was copied for a
        request that was refused later.
        """
        last = self.last_refusal_s()
        if not self.serves_cc or last is None:
            return 0.0 if self.serves_cc else None
        start = self.rounds[0].start_ms
        before, after = self.at(start), self.at(start + 1000 * last)
        copied = self.copied(after) - self.copied(before)
        held = self.used(after) - self.used(before)
        moved = sum(
            after.get(name) - before.get(name)
            for name in ("disk_read_bytes", "disk_written_bytes")
        )
        # Blocks that the legacy pool bounced were not copied into our slots.
        return max(0, copied - held - moved) / copied if copied else 0.0

    def kernel_cpu_s(self, last_s: float = 1e6) -> float:
        """CPU time of the guest's kernel from the first round on."""
        names = ("cpu_system", "cpu_irq", "cpu_softirq")
        return sum(self.growth(name, last_s=last_s) for name in names) / 100

    def kernel_cpu_per_gib(self) -> float | None:
        """CPU time of the guest's kernel for each GiB that the disks transferred."""
        names = ("disk_read_bytes", "disk_written_bytes")
        moved = sum(self.growth(name) for name in names)
        return self.kernel_cpu_s() * 1024 * MIB / moved if moved else None

    def figures(self) -> dict[str, object]:
        """Everything that a table shows."""
        first = self.rounds[0]
        return {
            "boot_s": self.boot_s,
            "pieces": self.pieces,
            "start_shared_mib": round(self.start_shared / MIB, 1),
            "refused": self.refused,
            "last_refusal_s": self.last_refusal_s(),
            "legacy": self.growth("fallback_legacy") if self.serves_cc else None,
            "waits": self.growth("waits"),
            "errors": sum(each.errors for each in self.rounds),
            "hung": self.hung,
            "done_25_s": first.done_after(25),
            "all_done_s": first.all_done_s,
            "transfers": first.transfers,
            "peak_shared_mib": round(self.peak_shared / MIB, 1),
            "peak_used_mib": round(self.peak_used / MIB, 1),
            "wasted": self.wasted_share(),
            "kernel_cpu_s": round(self.kernel_cpu_s(), 2),
            "kernel_cpu_done_s": self.kernel_cpu_s(first.all_done_s or 1e6),
            "kernel_cpu_per_gib": self.kernel_cpu_per_gib(),
            "page_us": self.page_us,
            "again": self.refused_again(),
            "converted_mib": round(self.converted() / MIB, 1),
            "give_backs": self.growth(*GIVE_BACKS),
        }
