# SPDX-License-Identifier: GPL-2.0
"""The figures of bursts as a table, those of swiotlb beside each."""

import statistics

COLUMNS = (
    ("boot_s", "boot s"),
    ("refused", "refused"),
    ("last_refusal_s", "last at s"),
    ("again", "again"),
    ("legacy", "legacy"),
    ("done_25_s", "done 25 s"),
    ("all_done_s", "all done s"),
    ("transfers", "MiB in 30 s"),
    ("peak_shared_mib", "shared MiB"),
    ("peak_used_mib", "used MiB"),
    ("wasted", "in vain"),
    ("kernel_cpu_done_s", "kernel s"),
    ("kernel_cpu_per_gib", "a GiB"),
    ("errors", "errors"),
    ("hung", "hung"),
)


def median(runs: list[dict]) -> dict:
    """The median of each figure over several runs of one burst."""
    found = {}
    for key in runs[0]:
        values = [run[key] for run in runs if run[key] is not None]
        found[key] = statistics.median(values) if values else None
    return found


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float) and value != int(value):
        return f"{value:,.2f}" if abs(value) < 10 else f"{value:,.1f}"
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)


def lines(rows: dict) -> list[str]:
    """The table, from bursts to their figures."""
    cells = [["burst"] + [title for _, title in COLUMNS]]
    for burst, figures in rows.items():
        cells.append([str(burst)] + [_cell(figures[key]) for key, _ in COLUMNS])
    widths = [max(len(row[at]) for row in cells) for at in range(len(cells[0]))]
    found = []
    for row in cells:
        padded = [row[0].ljust(widths[0])]
        padded += [
            text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)
        ]
        found.append("  ".join(padded).rstrip())
    return found
