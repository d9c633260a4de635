# SPDX-License-Identifier: GPL-2.0
"""The targets that the figures are compared with."""

import dataclasses
from collections.abc import Iterator

ALLOWED_FACTOR = 1.10
ALLOWED_NS = 60.0
# The time beyond the copy, as a share of that of swiotlb.
SHARE = 0.2
STEADY = 1.05
SCALING = 1.9
INSTRUCTIONS = 125
LEGACY = "legacy-dynamic"


@dataclasses.dataclass(frozen=True)
class Target:
    """One target, and whether the figures meet it."""

    name: str
    wanted: str
    measured: str
    met: bool


def _size(size: int) -> str:
    return f"{size} B" if size < 1024 else f"{size // 1024} KiB"


def _case(row: dict) -> str:
    return f"{_size(row['size'])}, {row['in_flight']} in flight, {row['dir']}"


def excess(row: dict) -> float:
    """Nanoseconds by which a case exceeds what is allowed on top of the copies."""
    return row["ns_per_pair"] - ALLOWED_FACTOR * row["floor_ns"] - ALLOWED_NS


def _floor(rows: list[dict]) -> Iterator[Target]:
    cases = [row for row in rows if row["impl"] == "cc" and row["mode"] == "single"]
    if cases:
        worst = max(cases, key=excess)
        good = sum(excess(row) <= 0 for row in cases)
        yield Target(
            "map and unmap beside a bare copy",
            f"at most {ALLOWED_FACTOR:.2f} x copy + {ALLOWED_NS:.0f} ns, everywhere",
            f"{good} of {len(cases)} cases; the worst: {excess(worst):+.0f} ns "
            f"({_case(worst)})",
            good == len(cases),
        )


def shares(rows: list[dict]) -> dict[int, float]:
    """By size: the time beyond the copy, over that of swiotlb, 64 in flight."""
    case = {"mode": "single", "in_flight": 64, "dir": "TO_DEVICE"}
    beyond: dict[str, dict[int, float]] = {"cc": {}, LEGACY: {}}
    for row in rows:
        if row["impl"] in beyond and all(row[key] == case[key] for key in case):
            left = row["ns_per_pair"] - row["floor_ns"]
            beyond[row["impl"]][row["size"]] = left
    own, theirs = beyond["cc"], beyond[LEGACY]
    # Where swiotlb's own time is lost in that of the copy, there is nothing to compare.
    return {size: own[size] / theirs[size] for size in own if theirs.get(size, 0) > 0}


def _shares(rows: list[dict]) -> Iterator[Target]:
    found = shares(rows)
    if found:
        worst = max(found, key=lambda size: found[size])
        good = sum(share <= SHARE for share in found.values())
        yield Target(
            f"beyond the copy, against {LEGACY}",
            f"at most {SHARE:.0%} of what it takes, at each size",
            f"{good} of {len(found)} sizes; {found[worst]:.0%} at worst "
            f"({_size(worst)})",
            good == len(found),
        )


def _syncs(rows: list[dict], what: str, key: str) -> Iterator[Target]:
    def case(row: dict) -> tuple:
        return row["size"], row["in_flight"], row["dir"]

    syncs = [row for row in rows if row["mode"] == "net"]
    theirs = {case(row): row[key] for row in syncs if row["impl"] == LEGACY}
    own = [row for row in syncs if row["impl"] == "cc" and case(row) in theirs]
    if own:
        worst = max(own, key=lambda row: row[key] - theirs[case(row)])
        good = sum(row[key] <= theirs[case(row)] for row in own)
        yield Target(
            f"two syncs of a mapped buffer, in {what}",
            f"no more than {LEGACY} takes, everywhere",
            f"{good} of {len(own)} cases; the worst: {worst[key]:.0f} and "
            f"{theirs[case(worst)]:.0f} ({_case(worst)})",
            good == len(own),
        )


def _steady(rows: list[dict], name: str, before: str, after: str) -> Iterator[Target]:
    times: dict[tuple[str, int], float] = {
        (row["impl"], row["size"]): row["ns_per_pair"] for row in rows
    }
    ratios = {
        size: time / times[before, size]
        for (impl, size), time in times.items()
        if impl == after and (before, size) in times
    }
    if ratios:
        size = max(ratios, key=lambda each: ratios[each])
        yield Target(
            name,
            f"at most {STEADY:.2f} times as long",
            f"{ratios[size]:.2f} times at worst ({_size(size)})",
            ratios[size] <= STEADY,
        )


def scaling(rows: list[dict], impl: str) -> dict[int, tuple[float, float]]:
    """By size: throughput of two threads over that of one, and the same of memcpy."""
    found = {}
    times = {(row["size"], row["threads"]): row for row in rows if row["impl"] == impl}
    for size, threads in times:
        if threads == 2 and (size, 1) in times:
            one, two = times[size, 1], times[size, 2]
            found[size] = (
                2 * one["ns_per_pair"] / two["ns_per_pair"],
                2 * one["floor_ns"] / two["floor_ns"],
            )
    return found


def _scales(rows: list[dict]) -> Iterator[Target]:
    ratios = scaling(rows, "cc")
    fair = {size: pair for size, (pair, copy) in ratios.items() if copy >= SCALING}
    if fair:
        worst = min(fair, key=lambda size: fair[size])
        yield Target(
            "two threads against one",
            f"at least {SCALING} times the throughput where memcpy() scales so",
            f"{fair[worst]:.2f} times at worst ({_size(worst)}; "
            f"{len(fair)} of {len(ratios)} sizes count)",
            fair[worst] >= SCALING,
        )
    elif ratios:
        yield Target(
            "two threads against one",
            f"at least {SCALING} times the throughput where memcpy() scales so",
            "memcpy() scales so at no size on this machine",
            False,
        )


def _instructions(rows: list[dict]) -> Iterator[Target]:
    # One at a time: it always finds its slot in this CPU's cache.
    own = [row for row in rows if row["impl"] == "cc" and row["mode"] == "single"]
    cases = [row for row in own if row["in_flight"] == 1]
    if cases:
        worst = max(cases, key=lambda row: row["beyond"])
        yield Target(
            "instructions beyond the copy and the DMA layer's own",
            f"at most {INSTRUCTIONS} for a slot that the CPU has at hand",
            f"{worst['beyond']} at worst ({_case(worst)})",
            worst["beyond"] <= INSTRUCTIONS,
        )


def _fio(rows: list[dict]) -> Iterator[Target]:
    def key(row: dict) -> tuple:
        return row["rw"], row["bs"], row["jobs"], row["iodepth"]

    legacy = {key(row): row for row in rows if row["impl"] == LEGACY}
    own = {key(row): row for row in rows if row["impl"] == "cc"}
    if own:
        # Noise is the difference between rounds of the same guest.
        below = [row for row in own if own[row]["iops"] < legacy[row]["iops_min"]]
        ratios = {row: own[row]["iops"] / legacy[row]["iops"] for row in own}
        worst = min(ratios, key=lambda row: ratios[row])
        name = f"{worst[0]} {_size(worst[1])}, {worst[2]} jobs, depth {worst[3]}"
        yield Target(
            f"fio against {LEGACY}",
            "in no row below its slowest round",
            f"{len(below)} of {len(own)} rows below; the least: "
            f"{ratios[worst]:.2f} times ({name})",
            not below,
        )


def _refused(rows: list[dict]) -> Iterator[Target]:
    own = [row for row in rows if "threads" in row and "legacy" not in row["impl"]]
    bad = [row for row in own if row.get("error") or row.get("refused")]
    if own:
        said = ", ".join(
            f"{_case(row)}, {row['threads']} threads: "
            + (f"error {row['error']}" if "error" in row else f"{row['refused']}")
            for row in bad[:3]
        )
        yield Target(
            "mappings refused while measuring",
            "none",
            f"in {len(bad)} of {len(own)} cases{f' ({said})' if said else ''}",
            not bad,
        )


def measured(data: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """The same without the cases that could not be measured."""
    return {
        name: [row for row in rows if "error" not in row] for name, rows in data.items()
    }


def _small(rows: list[dict]) -> list[dict]:
    """The rows in which the copy does not hide everything else."""
    return [row for row in rows if row["size"] <= 4096]


def judge(data: dict[str, list[dict]]) -> list[Target]:
    """All targets that were measured."""
    refused = _refused([row for rows in data.values() for row in rows])
    data = measured(data)
    return [
        *refused,
        *_floor(data.get("map_unmap", [])),
        *_shares(data.get("map_unmap", [])),
        *_syncs(_small(data.get("map_unmap", [])), "ns up to 4 KiB", "ns_per_pair"),
        *_steady(data.get("steady", []), "4 GiB shared", "8M", "4G"),
        *_steady(data.get("steady", []), "after a million mappings", "8M", "aged"),
        *_scales(data.get("scaling", [])),
        *_instructions(data.get("instructions", [])),
        *_syncs(data.get("instructions", []), "instructions", "beyond"),
        *_fio(data.get("fio", [])),
    ]
