# SPDX-License-Identifier: GPL-2.0
"""Measures cc_swiotlb against swiotlb and against a bare copy.

Everything alternates within one run; what counts are ratios between figures of
the same run. The figures are written as JSON, and as a page with plots.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.dont_write_bytecode = True

from lib import kernel, progress, repository  # noqa: E402
from lib.bench import disk, instructions, module, native, targets  # noqa: E402
from lib.bench import report as page  # noqa: E402
from lib.failure import Failure  # noqa: E402

# Parameters for parts in which one kind of mapping is enough.
FEW = "modes=single dirs=TO_DEVICE depths=64"

# The memory that is shared beyond the need of the mappings, and a cap that allows it.
SMALL = "cc_swiotlb.watermark=8M"
LARGE = "cc_swiotlb.watermark=4G cc_swiotlb.max=5G"
MAPPINGS = 1_000_000

QUICK_ROUNDS = 3


@dataclasses.dataclass
class Bench:
    """One run."""

    rounds: int
    quick: bool
    scratch: Path
    counted: str
    step: Callable[[str], None] = lambda text: progress.note(f"  {text}")

    def _machine(self, flavour: str, arguments: str, memory: str) -> native.Machine:
        built = kernel.build(flavour)
        place = self.scratch / flavour / f"{module.NAME}.ko"
        if not place.exists():
            module.build(built, place.parent)
        return native.Machine(built, place, arguments, memory)

    def _fewer(self) -> int:
        """The number of rounds for parts that vary little."""
        return min(self.rounds, QUICK_ROUNDS) if self.quick else self.rounds

    def _records(
        self,
        machines: dict[str, native.Machine],
        parameters: dict[str, str],
        rounds: int,
    ) -> list:
        found = native.measure(machines, parameters, rounds, self.step)
        return [
            module.record(name, case, summary)
            for name, cases in found.items()
            for case, summary in cases.items()
        ]

    def map_unmap(self) -> list:
        """Every size, direction, depth and pattern, at the machine's speed."""
        machines = {
            "cc": self._machine("uml", native.CC, "2G"),
            "legacy-dynamic": self._machine("uml", native.LEGACY, "2G"),
            "legacy-static": self._machine("uml-static", native.LEGACY, "2G"),
        }
        slices = f"slice_us={500 if self.quick else 3000}"
        return self._records(machines, dict.fromkeys(machines, slices), self.rounds)

    def scaling(self) -> list:
        """One thread and two, on two CPUs."""
        machines = {
            impl: self._machine("uml-smp", f"{arguments} ncpus=2", "2G")
            for impl, arguments in native.IMPLS.items()
        }
        few = f"{FEW} sizes=512,4096,16384,65536,262144"
        few += f" slice_us={5000 if self.quick else 20000}"
        records = []
        for threads in (1, 2):
            parameters = dict.fromkeys(machines, f"{few} threads={threads}")
            records += self._records(machines, parameters, self._fewer())
        return records

    def steady(self) -> list:
        """With little shared, with much, and after a million mappings."""
        few = f"{FEW} sizes=512,4096,65536 slice_us=20000"
        small = self._machine("uml", f"{native.CC} {SMALL}", "6G")
        large = self._machine("uml", f"{native.CC} {LARGE}", "6G")
        machines = {"8M": small, "4G": large, "aged": small}
        parameters = dict.fromkeys(machines, few) | {"aged": f"{few} age={MAPPINGS}"}
        return self._records(machines, parameters, self._fewer())

    def instructions(self) -> list:
        """Exact numbers of instructions."""
        counted = kernel.build(self.counted)
        built = module.build(counted, self.scratch / self.counted)
        return instructions.measure(counted, built, self.quick, self.step)

    def longest(self) -> list:
        """The longest code paths, in instructions."""
        counted = kernel.build(self.counted)
        built = module.build(counted, self.scratch / self.counted)
        return instructions.longest(counted, built, self.step)

    def fio(self) -> list:
        """fio in confidential guests."""
        kernel.build("guest")
        if self.quick:
            return disk.measure(self._fewer(), 1, disk.few(), self.step)
        return disk.measure(self.rounds, 2, disk.all_rows(), self.step)


PARTS = {
    "map_unmap": ("map and unmap, native speed", Bench.map_unmap),
    "scaling": ("one thread and two", Bench.scaling),
    "steady": ("much shared memory, many mappings", Bench.steady),
    "instructions": ("instructions", Bench.instructions),
    "longest": ("the longest map and unmap", Bench.longest),
    "fio": ("fio", Bench.fio),
}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, epilog=f"parts: {', '.join(PARTS)}"
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="within five minutes, less exact")
    add("--rounds", type=int, default=5, metavar="N", help="5")
    add("--only", action="append", choices=PARTS, help="measure this part alone")
    flavours = ("guest", *kernel.CONFIGS)
    text = "the kernel whose instructions are counted, guest"
    add("--flavour", choices=flavours, default="guest", help=text)
    add("--report", action="store_true", help="measure nothing, draw what is there")
    default = repository.ROOT / "build" / "bench"
    add("--output", type=Path, default=default, metavar="FOLDER", help="build/bench")
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> None:
    """Measures the parts and keeps each one as soon as it is there."""
    output = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cc-swiotlb-bench-") as scratch:
        bench = Bench(
            arguments.rounds, arguments.quick, Path(scratch), arguments.flavour
        )
        for name in arguments.only or PARTS:
            title, measure = PARTS[name]
            started = time.monotonic()
            progress.note(f"{title} ...")
            text = json.dumps(measure(bench), indent=1)
            (output / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")
            took = progress.duration(time.monotonic() - started)
            progress.note(f"{title}: done in {took}")


def report(arguments: argparse.Namespace) -> None:
    """Draws all that is there, and says which targets are met."""
    output = arguments.output
    data = {
        name: json.loads((output / f"{name}.json").read_text(encoding="utf-8"))
        for name in PARTS
        if (output / f"{name}.json").exists()
    }
    if not data:
        raise Failure(f"there are no figures in {output}")
    about = "quick run" if arguments.quick else f"{arguments.rounds} rounds"
    page.write(data, about, output / "report.html")
    judged = targets.judge(data)
    print()
    for each in judged:
        mark = "met   " if each.met else "MISSED"
        print(
            f"  {mark}  {each.name}\n          {each.measured}; wanted: {each.wanted}"
        )
    print(f"\n{sum(each.met for each in judged)} of {len(judged)} targets met")
    print(f"{output / 'report.html'}")


def main() -> int:
    """Does what the command line says."""
    arguments = parse()
    try:
        if arguments.rounds < 1:
            raise Failure("--rounds takes a number from 1 on")
        if not arguments.report:
            run(arguments)
        report(arguments)
    except (Failure, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
