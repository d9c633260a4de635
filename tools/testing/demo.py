# SPDX-License-Identifier: GPL-2.0
"""Boots a confidential guest, does verified I/O, and shows what was bounced.

The status is 0 only if every byte came back right and no mapping failed.
"""

import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.dont_write_bytecode = True

TESTING = Path(__file__).resolve().parent
CCVM = TESTING / "ccvm"
DEBUGFS = "/sys/kernel/debug/cc_swiotlb"
TRACING = "/sys/kernel/tracing"
MIB = 1 << 20
MEMORY = 2048 * MIB
CPUS = 2
TIMEOUT_S = 170
SAMPLES = 5

sys.path.insert(0, str(TESTING))

from workload.server import Server  # noqa: E402

COMMAND = """
uname -r
for i in $(seq 100); do
	grep -q '^shared_bytes: *[1-9]' {debugfs}/stats && break
	sleep 0.1
done
echo 2048 >{tracing}/buffer_size_kb
echo 1 >{tracing}/events/swiotlb/swiotlb_unbounced/enable

sh /host/workload/disk nvme0n1 ext4 && echo 'passed: nvme' &&
	sh /host/workload/disk vda ext4 && echo 'passed: blk' &&
	sh /host/workload/net {url} /tmp/file && echo 'passed: net'

echo 'step: reading the counters'
echo 0 >{tracing}/events/swiotlb/swiotlb_unbounced/enable
sleep 0.5
echo '=== stats'; cat {debugfs}/stats
echo '=== classes'; cat {debugfs}/classes
echo '=== trace'; grep 'swiotlb_unbounced:' {tracing}/trace | shuf -n {samples}
echo '=== end'
"""


class Steps:
    """Shows what is going on, and how long each step took."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._name = ""
        self._start = 0.0
        self._lock = threading.Lock()
        threading.Thread(target=self._tick, daemon=True).start()

    def begin(self, name: str) -> None:
        """Ends the step before, and starts the next one."""
        self.end()
        with self._lock:
            self._name, self._start = name, time.monotonic()
            if self._terminal:
                print(f"  {name} ...", end="", flush=True)

    def end(self) -> None:
        """Ends the present step."""
        with self._lock:
            if self._name:
                took = time.monotonic() - self._start
                start = "\r\033[K" if self._terminal else ""
                print(f"{start}  {self._name:<66} {took:5.1f} s", flush=True)
                self._name = ""

    def _tick(self) -> None:
        while True:
            time.sleep(1)
            with self._lock:
                if self._terminal and self._name:
                    took = time.monotonic() - self._start
                    text = f"\r\033[K  {self._name} ... {took:.0f} s"
                    print(text, end="", flush=True)


def mib(size: float) -> str:
    """A size as a person reads it."""
    return f"{size / MIB:.1f} MiB"


def run_guest(url: str, console: Path, steps: Steps) -> tuple[int, list[str], str]:
    """Runs the guest; returns its status, its output, and ccvm's errors."""
    command = COMMAND.format(debugfs=DEBUGFS, tracing=TRACING, url=url, samples=SAMPLES)
    words = [str(CCVM), "run", "--net", "--cpus", str(CPUS)]
    words += ["--mem", f"{MEMORY // MIB}M", "--timeout", str(TIMEOUT_S)]
    words += ["--console", str(console), "--add", str(TESTING / "workload")]
    output: list[str] = []
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        with subprocess.Popen(
            [*words, "--", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            errors="replace",
        ) as process:
            for line in process.stdout:
                output.append(line.rstrip("\n"))
                if line.startswith("step: "):
                    steps.begin(line.removeprefix("step: ").strip())
        errors.seek(0)
        return process.returncode, output, errors.read()


def section(output: list[str], name: str) -> list[str]:
    """The lines after the mark `name`, up to the next mark."""
    try:
        start = output.index(f"=== {name}") + 1
    except ValueError:
        return []
    end = start
    while end < len(output) and not output[end].startswith("=== "):
        end += 1
    return [line for line in output[start:end] if line.strip()]


def legacy_bytes() -> int:
    """The bytes that swiotlb reserves in a confidential guest of this size.

    See mem_encrypt_setup_arch() in arch/x86/mm/mem_encrypt.c.
    """
    return min(max(MEMORY * 6 // 100, 64 * MIB), 1024 * MIB)


class Report:
    """The guest's counters, in words."""

    def __init__(self, output: list[str], server: Server):
        pairs = (line.partition(":") for line in section(output, "stats"))
        self.stats = {key.strip(): value.strip() for key, _, value in pairs}
        rows = [line.split() for line in section(output, "classes")]
        self.classes = [dict(zip(rows[0], row, strict=False)) for row in rows[1:]]
        self.trace = section(output, "trace")
        self.passed = set(re.findall(r"^passed: (\w+)$", "\n".join(output), re.M))
        self.release = output[0] if output else "?"
        self.server = server

    def count(self, key: str) -> int:
        """A counter; -1 if the guest did not tell."""
        value = self.stats.get(key, "")
        return int(value) if value.isdigit() else -1

    def problems(self) -> list[str]:
        """The reasons why the run was no success; empty if it was one."""
        found = []
        names = {"nvme": "NVMe", "blk": "virtio-blk", "net": "virtio-net"}
        for key, name in names.items():
            if key not in self.passed:
                found.append(f"{name}: not verified")
        for key in ("misuse", "conversion_failures"):
            if self.count(key) != 0:
                found.append(f"{key}: {self.stats.get(key, 'unknown')}, should be 0")
        if self.stats.get("state") != "on":
            found.append("cc_swiotlb is not on")
        if self.count("mapped") < 1000:
            found.append("hardly anything was bounced")
        if len(self.trace) < SAMPLES:
            found.append("swiotlb_unbounced was not seen")
        return found

    def show(self) -> None:
        """Prints it."""
        self._show_verified()
        self._show_classes()
        self._show_memory()
        self._show_failures()
        self._show_trace()

    def _show_verified(self) -> None:
        sent, received = mib(self.server.sent), mib(self.server.received)
        filesystem = "ext4 made, filled, unmounted, checked"
        rows = (
            ("nvme", "NVMe", f"fio with crc32c; {filesystem}"),
            ("blk", "virtio-blk", f"fio with crc32c; {filesystem}"),
            ("net", "virtio-net", f"{sent} received, {received} sent, sha256"),
        )
        print("\nverified")
        for key, name, what in rows:
            verdict = "ok" if key in self.passed else "FAILED"
            print(f"  {name:<12}{what:<58}{verdict:>6}")

    def _show_classes(self) -> None:
        print("\nbounced     mappings   left to a larger   in use now   ready now")
        print("  class                class (fallback)      (slots)     (slots)")
        fallbacks = 0
        for row in self.classes:
            count = {key: int(row[key]) for key in row if key != "class"}
            larger = count["fallback_larger"]
            fallbacks += larger
            print(
                f"  {row['class']:<6}{count['mapped']:>12,}{larger:>19,}"
                f"{count['in_use']:>13,}{count['slots'] - count['in_use']:>12,}"
            )
        print(f"  total {self.count('mapped'):>12,}{fallbacks:>19,}")
        ready = mib(self.count("unbound_bytes"))
        print(f"  ready for any class, beside these: {ready}")

    def _show_memory(self) -> None:
        legacy = legacy_bytes()
        pool = self.count("legacy_bytes")
        peak = self.count("peak_shared_bytes") + pool
        now = self.count("shared_bytes") + pool
        print("\nshared memory")
        print(f"  {'at its peak':<50}{mib(peak):>10}  {100 * peak // legacy:>4} %")
        print(f"  {'now':<50}{mib(now):>10}  {100 * now // legacy:>4} %")
        print(
            f"  {f'swiotlb would reserve (6 % of {MEMORY >> 30} GiB, computed)':<50}"
            f"{mib(legacy):>10}   100 %"
        )

    def _show_failures(self) -> None:
        print("\nfailures")
        for what, key in (
            ("mappings that were refused", "refused"),
            ("mappings left to swiotlb since kccd started", "fallback_legacy"),
            ("misuse by a driver", "misuse"),
            ("conversions that failed", "conversion_failures"),
        ):
            print(f"  {what:<50}{self.count(key):>8}")

    def _show_trace(self) -> None:
        print(f"\nswiotlb_unbounced, {SAMPLES} of {self.count('unmapped'):,}")
        for line in self.trace[:SAMPLES]:
            print("  " + line.partition("swiotlb_unbounced: ")[2])


def main() -> int:
    """Runs the demo."""
    started = time.monotonic()
    # The steps that build something first show their own progress.
    if subprocess.run([CCVM, "build"], check=False).returncode:
        return 1
    print(
        f"A confidential guest: {CPUS} CPUs, {MEMORY >> 30} GiB, NVMe, virtio-blk, "
        "virtio-net.\nIts devices reach shared memory only.\n"
    )
    steps = Steps()
    steps.begin("boot")
    with tempfile.TemporaryDirectory() as folder, Server() as server:
        console = Path(folder) / "console"
        status, output, errors = run_guest(server.url, console, steps)
    steps.end()
    if status or "=== end" not in output:
        print(errors, file=sys.stderr)
        print(f"\nThe demo failed: the guest ended with status {status}.")
        return 1

    report = Report(output, server)
    report.show()
    problems = report.problems()
    took = time.monotonic() - started
    if problems:
        print(errors, file=sys.stderr)
        print("\nThe demo failed:\n  " + "\n  ".join(problems))
        return 1
    print(f"\nEvery byte verified, Linux {report.release}, {took:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
