# SPDX-License-Identifier: GPL-2.0
"""Bursts of I/O from idle, over cc_swiotlb and over swiotlb in the same guest.

160 direct readers of 1 MiB begin at once on 20 disks that take 100 ms for a
request. Each kind of disk, of buffer and of conversion cost is tried over all
three: cc_swiotlb, swiotlb's static pool, and swiotlb that grows from the memory
that cc_swiotlb begins with. A table and the targets are printed at the end; all
figures and the samples they were taken from are kept in a folder.
"""

import argparse
import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.dont_write_bytecode = True

from lib import progress, repository  # noqa: E402
from lib.burst import guest, table, targets  # noqa: E402
from lib.burst.report import MIB, Report  # noqa: E402
from lib.failure import Failure  # noqa: E402

BUFFERS = ("contiguous", "scattered")
COSTS = ("0", "23", "260")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="burst", description=__doc__)
    add = parser.add_argument

    def choice(option: str, known: tuple[str, ...], default: tuple[str, ...]) -> None:
        add(
            option,
            default=",".join(default),
            metavar="A,B",
            help=f"of {', '.join(known)}; {','.join(default)}",
        )

    choice("--disks", guest.BUSES, guest.BUSES[:2])
    choice("--buffers", BUFFERS, BUFFERS)
    choice("--convert-us", COSTS, COSTS)
    choice("--over", tuple(guest.IMPLS), tuple(guest.IMPLS))
    add("--again", action="store_true", help="three times, every 20 s, for 12 s each")
    add("--whole", action="store_true", help="do not fragment the memory before")
    add("--rounds", type=int, default=1, metavar="N", help="guests for each, 1")
    default = repository.ROOT / "build" / "burst"
    add("--output", type=Path, default=default, metavar="FOLDER", help="build/burst")
    arguments = parser.parse_args()
    for name, known in (
        ("disks", guest.BUSES),
        ("buffers", BUFFERS),
        ("over", guest.IMPLS),
    ):
        for word in getattr(arguments, name).split(","):
            if word not in known:
                parser.error(f"--{name}: {word} is none of {', '.join(known)}")
    return arguments


def bursts(arguments: argparse.Namespace) -> list[guest.Burst]:
    """All bursts that are wanted."""
    return [
        guest.Burst(
            impl=impl,
            bus=bus,
            scattered=buffers == "scattered",
            fragmented=not arguments.whole,
            convert_us=int(cost),
            load="-t 12 -n 3 -e 20" if arguments.again else "",
        )
        for bus, buffers, cost, impl in itertools.product(
            arguments.disks.split(","),
            arguments.buffers.split(","),
            arguments.convert_us.split(","),
            arguments.over.split(","),
        )
    ]


def keep(report: Report, place: Path) -> dict:
    """Keeps the report and the figures of a burst in files; returns the figures."""
    figures = report.figures()
    text = json.dumps(figures, indent=1)
    place.with_suffix(".json").write_text(f"{text}\n")
    place.with_suffix(".txt").write_text(report.text)
    return figures


def started_alike(burst: guest.Burst, runs: dict) -> guest.Burst:
    """The burst, with a pool as large as cc_swiotlb's was in the same guest."""
    own = runs.get(dataclasses.replace(burst, impl="cc"))
    if not own:
        return burst
    size = int(own[-1]["start_shared_mib"] * MIB)
    return dataclasses.replace(burst, start_bytes=size)


def measure(arguments: argparse.Namespace) -> dict[guest.Burst, dict]:
    """Runs all bursts in turn, round by round; returns medians of those that ended."""
    output = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    wanted = bursts(arguments)
    runs: dict[guest.Burst, list[dict]] = {}
    for number in range(arguments.rounds):
        for index, burst in enumerate(wanted):
            started = time.monotonic()
            try:
                name = str(burst).replace(", ", "-").replace(" ", "")
                report = guest.run(started_alike(burst, runs))
                figures = keep(report, output / f"{name}-{number}")
                runs.setdefault(burst, []).append(figures)
                outcome = "done"
            except Failure as error:
                print(error, file=sys.stderr)
                outcome = "FAILED"
            took = progress.duration(time.monotonic() - started)
            progress.note(
                f"{burst}: {outcome} in {took} (round {number + 1} of "
                f"{arguments.rounds}, {index + 1} of {len(wanted)})"
            )
    return {burst: table.median(each) for burst, each in runs.items()}


def judge(figures: dict[guest.Burst, dict]) -> Iterator[tuple[str, targets.Target]]:
    """The targets of each burst over cc_swiotlb."""
    for burst, own in figures.items():
        if burst.impl == "cc":
            others = [
                figures.get(dataclasses.replace(burst, impl=impl))
                for impl in ("static", "dynamic")
            ]
            for target in targets.judge(own, *others, burst.convert_us, burst.readers):
                yield str(burst), target


def main() -> int:
    """Does what the command line says."""
    arguments = parse()
    try:
        figures = measure(arguments)
    except (Failure, OSError) as error:
        print(f"burst: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print("\n".join(table.lines(figures)))
    judged = list(judge(figures))
    for name, each in judged:
        if not each.met:
            print(f"\nMISSED  {name}: {each.name}")
            print(f"        {each.measured}; wanted: {each.wanted}")
    met = sum(each.met for _, each in judged)
    print(f"\n{met} of {len(judged)} targets met; {arguments.output}")
    ended = len(figures) == len(bursts(arguments))
    return 0 if ended and met == len(judged) else 1


if __name__ == "__main__":
    sys.exit(main())
