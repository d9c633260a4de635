# SPDX-License-Identifier: GPL-2.0
"""The benchmark module: how it is built, and what its results say."""

import dataclasses
import statistics
import subprocess
from collections.abc import Iterable
from pathlib import Path

from lib import repository, toolchain
from lib.failure import Failure
from lib.kernel import Kernel

SOURCE = repository.TESTING / "dma_bench"
NAME = "cc_swiotlb_bench"
RESULTS = f"/sys/kernel/debug/{NAME}/results"


@dataclasses.dataclass(frozen=True)
class Case:
    """A measured case. Its fields are those of a line of the results."""

    mode: str
    size: int
    in_flight: int
    threads: int
    dir: str

    def __str__(self) -> str:
        return (
            f"{self.mode} {self.size} B, {self.in_flight} in flight, "
            f"{self.threads} threads, {self.dir}"
        )


@dataclasses.dataclass(frozen=True)
class Time:
    """Nanoseconds for one buffer in one round, and those of its floor."""

    pair: float
    floor: float
    refused: int = 0
    """Mappings that were refused while it was measured."""
    error: int = 0
    """Why it could not be measured."""


def build(kernel: Kernel, folder: Path, source: Path = SOURCE) -> Path:
    """Builds the module, or that of another folder, for a kernel, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    result = subprocess.run(
        ["make", "-C", str(kernel.folder), f"M={source}", f"MO={folder}"]
        + [*kernel.make_arguments(), "modules"],
        env=toolchain.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        said = (result.stdout + result.stderr)[-3000:]
        raise Failure(f"{said}\nthe module of {source} did not build")
    return folder / f"cc_swiotlb_{source.name.removeprefix('dma_')}.ko"


def parse(text: str) -> dict[Case, Time]:
    """The module's results."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) < 7:
            raise Failure(f"the benchmark module says: {line}")
        mode, size, in_flight, threads, direction = words[:5]
        case = Case(mode, int(size), int(in_flight), int(threads), direction)
        if words[5] == "error":
            found[case] = Time(0.0, 0.0, error=int(words[6]))
            continue
        pair, floor, refused = map(int, words[5:8])
        found[case] = Time(pair / 1000, floor / 1000, refused)
    if not found:
        raise Failure("the benchmark module measured nothing")
    return found


@dataclasses.dataclass(frozen=True)
class Summary:
    """One case over all rounds of one implementation, in ns."""

    pair: float
    least: float
    most: float
    floor: float
    refused: int = 0
    """In all rounds together."""
    error: int = 0
    """Of the last round, if none could be measured; there are no times then."""


def _summary(times: list[Time]) -> Summary:
    good = [time for time in times if not time.error]
    if not good:
        return Summary(0.0, 0.0, 0.0, 0.0, error=times[-1].error)
    return Summary(
        pair=statistics.median(time.pair for time in good),
        least=min(time.pair for time in good),
        most=max(time.pair for time in good),
        floor=statistics.median(time.floor for time in good),
        refused=sum(time.refused for time in good),
    )


def summarise(rounds: Iterable[dict[Case, Time]]) -> dict[Case, Summary]:
    """The median and the spread of each case."""
    times: dict[Case, list[Time]] = {}
    for one in rounds:
        for case, time in one.items():
            times.setdefault(case, []).append(time)
    return {case: _summary(each) for case, each in times.items()}


def record(impl: str, case: Case, summary: Summary) -> dict[str, object]:
    """A case as it is written to map_unmap.json."""
    what = {
        "impl": impl,
        "mode": case.mode,
        "size": case.size,
        "in_flight": case.in_flight,
        "threads": case.threads,
        "dir": case.dir,
    }
    if summary.error:
        return {**what, "error": summary.error}
    return {
        **what,
        "ns_per_pair": round(summary.pair, 3),
        "ns_min": round(summary.least, 3),
        "ns_max": round(summary.most, 3),
        "floor_ns": round(summary.floor, 3),
        "refused": summary.refused,
    }
