# SPDX-License-Identifier: GPL-2.0
"""The report: plots by matplotlib in one page that needs no other file."""

import html
import io
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import matplotlib

from lib.bench import targets

matplotlib.use("svg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

COLOURS = {
    "cc": "#1b6ca8",
    "legacy-dynamic": "#d1495b",
    "legacy-static": "#edae49",
    "floor": "#6b7280",
    "unbounced": "#6b7280",
}
NAMES = {
    "cc": "cc_swiotlb",
    "legacy-dynamic": "swiotlb, dynamic",
    "legacy-static": "swiotlb, static",
    "floor": "memcpy() alone",
    "unbounced": "not bounced",
}
DIRECTIONS = ("TO_DEVICE", "FROM_DEVICE", "BIDIRECTIONAL")
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem;
       padding: 0 1rem; color: #1f2937; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
td, th { border-bottom: 1px solid #d1d5db; padding: .35rem .6rem; text-align: left; }
.met { color: #15803d; } .missed { color: #b91c1c; font-weight: bold; }
figure { margin: 1rem 0; } svg { width: 100%; height: auto; }
figcaption, .about { color: #4b5563; font-size: 14px; }
"""

Rows = list[dict]


def _size(size: float, _place: object = None) -> str:
    size = int(size)
    return str(size) if size < 1024 else f"{size // 1024}K"


def _sizes(axes: Axes) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(_size))
    axes.set_xlabel("bytes")
    axes.grid(True, which="major", alpha=0.3)


def _svg(figure) -> str:
    buffer = io.StringIO()
    figure.tight_layout()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _select(rows: Rows, **wanted) -> Rows:
    chosen = [row for row in rows if all(row[key] == wanted[key] for key in wanted)]
    return sorted(chosen, key=lambda row: row["size"])


def _line(axes: Axes, rows: Rows, impl: str) -> None:
    sizes = [row["size"] for row in rows]
    own = [row["ns_per_pair"] for row in rows]
    axes.plot(sizes, own, "o-", ms=4, color=COLOURS[impl], label=NAMES[impl])
    least, most = [row["ns_min"] for row in rows], [row["ns_max"] for row in rows]
    axes.fill_between(sizes, least, most, color=COLOURS[impl], alpha=0.2, lw=0)


def _times(rows: Rows, depth: int) -> str:
    figure, panels = pyplot.subplots(1, 3, figsize=(13, 4.6), sharey=True)
    for axes, direction in zip(panels, DIRECTIONS, strict=True):
        for impl in ("legacy-dynamic", "legacy-static", "cc"):
            of = {"impl": impl, "mode": "single", "dir": direction, "in_flight": depth}
            chosen = _select(rows, **of)
            if chosen:
                _line(axes, chosen, impl)
            if impl == "cc":
                sizes = [row["size"] for row in chosen]
                floor = [row["floor_ns"] for row in chosen]
                axes.plot(
                    sizes, floor, "--", color=COLOURS["floor"], label=NAMES["floor"]
                )
        axes.set_yscale("log")
        axes.set_title(direction)
        _sizes(axes)
    panels[0].set_ylabel("ns for a map and an unmap")
    panels[0].legend(frameon=False)
    return _svg(figure)


def _positive(value: float) -> float:
    """The value if a logarithmic axis can show it: noise may exceed what is left."""
    return value if value > 1 else float("nan")


def _beyond(rows: Rows) -> str:
    figure, panels = pyplot.subplots(1, 2, figsize=(13, 4.6))
    for impl in ("legacy-dynamic", "legacy-static", "cc"):
        of = {"impl": impl, "mode": "single", "dir": "TO_DEVICE", "in_flight": 64}
        chosen = _select(rows, **of)
        sizes = [row["size"] for row in chosen]
        beyond = [_positive(row["ns_per_pair"] - row["floor_ns"]) for row in chosen]
        panels[0].plot(
            sizes, beyond, "o-", ms=4, color=COLOURS[impl], label=NAMES[impl]
        )
        if impl == "cc":
            allowed = [
                (targets.ALLOWED_FACTOR - 1) * row["floor_ns"] + targets.ALLOWED_NS
                for row in chosen
            ]
            panels[0].plot(sizes, allowed, ":", color="black", label="target")
    panels[0].set_yscale("log")
    panels[0].set_ylabel("ns beyond the copy")
    panels[0].set_title("What is not copying")
    panels[0].legend(frameon=False)
    shares = sorted(targets.shares(rows).items())
    panels[1].plot(
        [size for size, _ in shares],
        [100 * share for _, share in shares],
        "o-",
        ms=4,
        color=COLOURS["cc"],
    )
    panels[1].axhline(100 * targets.SHARE, color="black", ls=":")
    panels[1].set_ylim(bottom=0)
    panels[1].set_ylabel("% of what it takes with swiotlb")
    panels[1].set_title("The same, of swiotlb's (dotted: target)")
    for axes in panels:
        _sizes(axes)
    return _svg(figure)


def _patterns(rows: Rows) -> str:
    figure, panels = pyplot.subplots(1, 2, figsize=(13, 4.6))
    for axes, (mode, title) in zip(
        panels,
        (
            ("sg", "A scatterlist of 64, a segment"),
            ("net", "Two syncs of a mapped buffer"),
        ),
        strict=True,
    ):
        for impl in ("legacy-dynamic", "legacy-static", "cc"):
            of = {"impl": impl, "mode": mode, "dir": "FROM_DEVICE", "in_flight": 64}
            chosen = _select(rows, **of)
            if chosen:
                _line(axes, chosen, impl)
        axes.set_yscale("log")
        axes.set_title(title)
        _sizes(axes)
    panels[0].set_ylabel("ns (FROM_DEVICE)")
    panels[0].legend(frameon=False)
    return _svg(figure)


def _scaling(rows: Rows) -> str:
    figure, axes = pyplot.subplots(figsize=(13, 4.6))
    drawn = False
    for impl in ("cc", "legacy-dynamic"):
        ratios = targets.scaling(rows, impl)
        if ratios:
            sizes = sorted(ratios)
            own = [ratios[size][0] for size in sizes]
            axes.plot(sizes, own, "o-", color=COLOURS[impl], label=NAMES[impl])
            if not drawn:
                copies = [ratios[size][1] for size in sizes]
                axes.plot(
                    sizes, copies, "--", color=COLOURS["floor"], label=NAMES["floor"]
                )
                drawn = True
    axes.axhline(targets.SCALING, color="black", ls=":", label="target")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("throughput of two threads / of one")
    axes.legend(frameon=False)
    _sizes(axes)
    return _svg(figure)


def _instructions(rows: Rows) -> str:
    figure, axes = pyplot.subplots(figsize=(13, 4.6))
    for impl in ("legacy-dynamic", "cc"):
        chosen = _select(rows, impl=impl, mode="single", dir="TO_DEVICE", in_flight=1)
        sizes = [row["size"] for row in chosen]
        axes.plot(
            sizes,
            [max(1, row["beyond"]) for row in chosen],
            "o-",
            color=COLOURS[impl],
            label=NAMES[impl],
        )
    axes.axhline(targets.INSTRUCTIONS, color="black", ls=":", label="target")
    axes.set_yscale("log")
    axes.set_ylabel("instructions beyond the copy\nand the DMA layer's own")
    axes.legend(frameon=False)
    _sizes(axes)
    return _svg(figure)


def _fio(rows: Rows) -> str:
    def key(row: dict) -> tuple:
        return row["rw"], row["bs"], row["jobs"], row["iodepth"]

    legacy = {key(row): row for row in rows if row["impl"] == targets.LEGACY}
    own = {key(row): row for row in rows if row["impl"] == "cc"}
    figure, axes = pyplot.subplots(figsize=(13, 4.6))
    for place, (name, row) in enumerate(own.items()):
        base = legacy[name]["iops"]
        for offset, each, impl in (
            (-0.2, legacy[name], targets.LEGACY),
            (0.2, row, "cc"),
        ):
            middle = each["iops"] / base
            error = [
                [middle - each["iops_min"] / base],
                [each["iops_max"] / base - middle],
            ]
            axes.bar(
                place + offset,
                middle,
                0.38,
                color=COLOURS[impl],
                label=NAMES[impl] if place == 0 else None,
                yerr=error,
                ecolor="#374151",
                capsize=2,
            )
    labels = [f"{rw}\n{_size(bs)}\n{jobs} x {depth}" for rw, bs, jobs, depth in own]
    axes.set_xticks(range(len(own)), labels, fontsize=8)
    axes.set_ylabel("requests a second,\nswiotlb = 1")
    axes.grid(True, axis="y", alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    return _svg(figure)


# Data it needs, title, what it shows, how it is drawn.
FIGURES = (
    (
        "map_unmap",
        "Beyond the copy",
        "The copy cannot be avoided; everything else is the allocator's. 64 mappings "
        "in flight, TO_DEVICE, native speed (User Mode Linux without SMP).",
        _beyond,
    ),
    (
        "map_unmap",
        "Map and unmap, 64 in flight",
        "Native speed (User Mode Linux without SMP). The band is the spread over all "
        "rounds.",
        lambda rows: _times(rows, 64),
    ),
    (
        "map_unmap",
        "Map and unmap, one at a time",
        "The same with one buffer, whose bytes stay in the CPU's cache.",
        lambda rows: _times(rows, 1),
    ),
    (
        "map_unmap",
        "Scatterlists, and a network driver's syncs",
        "Times for one buffer; a network driver maps once and syncs often.",
        _patterns,
    ),
    (
        "instructions",
        "Instructions",
        "Exact (QEMU -icount), one mapping at a time, TO_DEVICE.",
        _instructions,
    ),
    (
        "scaling",
        "Two threads",
        "User Mode Linux with SMP, where disabling interrupts costs two system calls: "
        "only the ratio says anything.",
        _scaling,
    ),
    (
        "fio",
        "fio in a confidential guest",
        "Jobs x queue depth. QEMU emulates the CPU, so that differences are smaller "
        "than on hardware.",
        _fio,
    ),
)


def _table(judged: list[targets.Target]) -> Iterator[str]:
    yield "<table><tr><th>target</th><th>wanted</th><th>measured</th><th></th></tr>"
    for each in judged:
        verdict = "met" if each.met else "missed"
        cells = "".join(
            f"<td>{html.escape(text)}</td>"
            for text in (each.name, each.wanted, each.measured)
        )
        yield f'<tr>{cells}<td class="{verdict}">{verdict}</td></tr>'
    yield "</table>"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def write(data: dict[str, Rows], about: str, path: Path) -> None:
    """Writes the page."""
    judged = targets.judge(data)
    data = targets.measured(data)
    parts = [
        '<!DOCTYPE html><html lang="en"><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>cc_swiotlb: benchmark</title><style>{STYLE}</style>",
        "<h1>cc_swiotlb: benchmark</h1>",
        f'<p class="about">{html.escape(about)}; {html.escape(_cpu())}; '
        f"{time.strftime('%Y-%m-%d')}</p>",
        f"<h2>{sum(each.met for each in judged)} of {len(judged)} targets met</h2>",
        *_table(judged),
    ]
    for needed, title, caption, draw in FIGURES:
        if data.get(needed):
            parts.append(f"<h2>{html.escape(title)}</h2><figure>{draw(data[needed])}")
            parts.append(f"<figcaption>{html.escape(caption)}</figcaption></figure>")
    parts.append("</html>\n")
    path.write_text("\n".join(parts), encoding="utf-8")
