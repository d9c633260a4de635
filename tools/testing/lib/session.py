# SPDX-License-Identifier: GPL-2.0
"""One run of a guest, from the start of QEMU to the status it ends with."""

import contextlib
import fcntl
import os
import secrets
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import time
import tty
from pathlib import Path

from lib import cache, disks, machine, untrusted
from lib.archive import Archive
from lib.console import Console
from lib.failure import Failure
from lib.kernel import Kernel, copy_image
from lib.monitor import Monitor

# The statuses of a run that are not the command's own.
SHOWN = 119
HANG = 120
PANIC = 121
GONE = 122
COMPLAINT = 123
TIMEOUT = 124
SETUP = 125

# A guest that has not started its command by then never will.
BOOT_TIMEOUT_S = 480
# How often a guest is started if QEMU does not get it to its command.
ATTEMPTS = 3
# From the command's status to the end of QEMU.
POWER_OFF_TIMEOUT_S = 120
KEPT_LOGS = 30
SHARED_FOLDER = Path("/dev/shm")


class Aborted(Exception):
    """QEMU gave up, by an assertion of its own, while the guest was booting.

    It does so when one CPU runs code while another one sets up a PCI device:
    "iotlb_to_section: Assertion". Or it let a CPU run into a jump that is being
    patched, see console.py. Neither is the guest's fault, and its command has not been
    started.
    """


class Channel:
    """A serial port whose content lies between two marks, passed on as it comes."""

    def __init__(self, mark: bytes, output: int):
        self._start = mark + b"\n"
        self._mark = mark
        self._output = output
        self._data = b""
        self.started = False
        self.trailer: bytes | None = None

    def feed(self, data: bytes) -> None:
        """Takes the next bytes from the guest."""
        self._data += data
        if not self.started:
            _, found, rest = self._data.partition(self._start)
            if not found:
                return
            self.started = True
            self._data = rest
        if self.trailer is not None:
            return
        content, found, rest = self._data.partition(self._mark)
        if found:
            line, end, _ = rest.partition(b"\n")
            if end:
                self.trailer = line
                self._write(content)
                self._data = b""
            return
        # The mark may have come in part.
        keep = len(self._mark) - 1
        while keep and not self._data.endswith(self._mark[:keep]):
            keep -= 1
        end = len(self._data) - keep
        self._write(self._data[:end])
        self._data = self._data[end:]

    def flush(self) -> None:
        """Passes on the remaining bytes if the guest ended too early."""
        if self.started and self.trailer is None:
            self._write(self._data)
            self._data = b""

    def _write(self, data: bytes) -> None:
        while data:
            written = os.write(self._output, data)
            data = data[written:]


class Session:
    """A guest that runs."""

    def __init__(self, options: machine.Options, kernel: Kernel, initramfs: Path):
        self.options = options
        self.kernel = kernel
        self.initramfs = initramfs
        self.command: str | None = None
        self.added: list[Path] = []
        self.timeout_s = 600.0
        self.shared_file: Path | None = None
        self.console_path: str | None = None
        self.allow_warnings = False
        self._console = Console()
        self._started = False
        self._mark = f"ccvm:{secrets.token_hex(16)}:"

    def run(self) -> int:
        """Runs the guest to its end; returns the status for the user."""
        for _ in range(ATTEMPTS):
            self._console = Console()
            try:
                return self._run_once()
            except Aborted as aborted:
                print(f"ccvm: {aborted}", file=sys.stderr, flush=True)
        print(
            f"ccvm: status {SETUP}: QEMU gave up {ATTEMPTS} times",
            file=sys.stderr,
            flush=True,
        )
        return SETUP

    def _run_once(self) -> int:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(_run_folder())
            shared = self._shared(stack, folder)
            image = folder / "kernel"
            copy_image(self.kernel, image)
            initrd = self._initrd(folder)
            place = folder / "disks"
            disks.make(self.options, place)
            delay = self._delay(stack, place)
            host = untrusted.Host(self.options)
            vhost = host.start(stack, place)
            files = machine.Files(image, initrd, place, delay, vhost, shared)
            status = self._run_qemu(stack, files)
            return self._judge(host, status)

    def _shared(self, stack: contextlib.ExitStack, folder: Path) -> Path | None:
        if self.options.guest != "coco":
            return None
        size = machine.shared_size(self.options)
        if self.shared_file:
            path = self.shared_file.absolute()
        else:
            path = SHARED_FOLDER / f"cc-swiotlb-{folder.name}"
            # A later run finds it by this link if this one is killed.
            (folder / "shared").symlink_to(path)
            stack.callback(path.unlink, missing_ok=True)
        with open(path, "wb") as file:
            file.truncate(size)
        return path

    def _initrd(self, folder: Path) -> Path:
        """The guest's file system, followed by the files of this run."""
        path = folder / "initrd"
        with open(path, "wb") as file:
            with open(self.initramfs, "rb") as base:
                shutil.copyfileobj(base, file)
            # A compressed one may end anywhere.
            file.write(b"\0" * (-file.tell() % 4))
            archive = Archive(file)
            settings = f"mark={self._mark}\n"
            if self.command is None:
                columns, lines = shutil.get_terminal_size()
                settings += f"shell=1\ncolumns={columns}\nrows={lines}\n"
            archive.file(".ccvm/settings", settings.encode())
            archive.file(".ccvm/command", (self.command or "").encode() + b"\n")
            archive.folder("host")
            for added in self.added:
                archive.tree(added, f"host/{added.name}")
            archive.finish()
        return path

    def _delay(self, stack: contextlib.ExitStack, place: Path) -> Path | None:
        if not self.options.latency_ms or not disks.names(self.options):
            return None
        # The path of a socket must be short.
        folder = Path(tempfile.mkdtemp(prefix="ccvm-"))
        (place.parent / "socket").symlink_to(folder)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        path = folder / "disks"
        server = disks.start_delay(self.options, place, path)
        stack.callback(server.wait)
        stack.callback(server.terminate)
        end = time.monotonic() + 60
        while not path.exists():
            if server.poll() is not None or time.monotonic() > end:
                raise Failure("nbdkit, which delays disk requests, did not start")
            time.sleep(0.02)
        return path

    def _log(self) -> tuple[int, str]:
        """The descriptor the console is written to, and its name."""
        if self.console_path == "-":
            return sys.stderr.fileno(), "standard error"
        if self.console_path:
            path = Path(self.console_path)
        else:
            folder = cache.root() / "consoles"
            folder.mkdir(exist_ok=True)
            old = sorted(folder.glob("*.log"), key=lambda log: log.stat().st_mtime)
            for log in old[:-KEPT_LOGS]:
                log.unlink(missing_ok=True)
            stamp = time.strftime("%m%d-%H%M%S")
            path = folder / f"{stamp}-{os.getpid()}.log"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        return os.open(path, flags, 0o644), str(path)

    def _run_qemu(self, stack: contextlib.ExitStack, files: machine.Files) -> int:
        # Three serial ports and QEMU's monitor.
        pairs = [socket.socketpair() for _ in range(4)]
        ends = [theirs.fileno() for _, theirs in pairs]
        words = machine.command(self.options, files, ends[:3], ends[3])
        log, log_name = self._log()
        if self.command is not None and log_name != "standard error":
            print(f"ccvm: console: {log_name}", file=sys.stderr, flush=True)
        process = subprocess.Popen(
            # QEMU ends with this process, however that ends.
            ["setpriv", "--pdeathsig", "KILL", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=ends,
            env=machine.environment(),
            start_new_session=True,
        )
        stack.callback(_end, process)
        for _, theirs in pairs:
            theirs.close()
        ours = [mine for mine, _ in pairs]
        for mine in ours:
            stack.callback(mine.close)
        monitor = Monitor(ours[3], self.options)
        outcome = self._watch(process, ours, monitor, log)
        complaint = process.communicate()[0].decode(errors="replace").strip()
        if process.returncode == -signal.SIGABRT and not self._started:
            raise Aborted(f"QEMU gave up before the command began: {complaint}")
        return self._verdict(outcome, process.returncode, complaint, log_name)

    def _watch(
        self,
        process: subprocess.Popen,
        ports: list[socket.socket],
        monitor: Monitor,
        log: int,
    ) -> tuple[str, bytes | None]:
        """Passes data on until QEMU ends; says why it ended and the trailer."""
        mark = self._mark.encode()
        channels = [
            Channel(mark, sys.stdout.fileno()),
            Channel(mark, sys.stderr.fileno()),
        ]
        sys.stdout.flush()
        sys.stderr.flush()
        start = time.monotonic()
        boot_end = start + BOOT_TIMEOUT_S
        end = start + self.timeout_s if self.timeout_s else float("inf")
        acknowledged = False
        reason = ""
        with contextlib.ExitStack() as stack:
            selector = stack.enter_context(selectors.DefaultSelector())
            for index, port in enumerate(ports[:3]):
                selector.register(port, selectors.EVENT_READ, index)
            selector.register(ports[3], selectors.EVENT_READ, "monitor")
            command_start = 0.0
            if self.command is None:
                stack.enter_context(_raw_terminal())
                selector.register(sys.stdin, selectors.EVENT_READ, "keys")
            while any(isinstance(key.data, int) for key in selector.get_map().values()):
                now = time.monotonic()
                if now >= end:
                    reason = "timeout"
                elif now >= boot_end and not channels[0].started:
                    reason = "boot"
                if reason:
                    break
                if channels[0].started:
                    command_start = command_start or now
                    if now >= command_start + monitor.due():
                        monitor.plug()
                for key, _ in selector.select(timeout=min(1.0, end - now)):
                    if key.data == "keys":
                        self._keys(selector, ports[1])
                        continue
                    try:
                        data = key.fileobj.recv(1 << 16)
                    except ConnectionResetError:
                        data = b""
                    if not data:
                        selector.unregister(key.fileobj)
                    elif key.data == "monitor":
                        monitor.feed(data)
                    elif key.data == 0:
                        os.write(log, data)
                        self._console.feed(data)
                    else:
                        channels[key.data - 1].feed(data)
                if not acknowledged and all(
                    each.trailer is not None for each in channels
                ):
                    acknowledged = True
                    end = time.monotonic() + POWER_OFF_TIMEOUT_S
                    with contextlib.suppress(OSError):
                        ports[1].sendall(b"\n")
        for channel in channels:
            channel.flush()
        self._console.finish()
        self._started = channels[0].started
        if reason:
            _end(process)
        return reason, channels[0].trailer

    def _keys(self, selector: selectors.BaseSelector, port: socket.socket) -> None:
        data = os.read(sys.stdin.fileno(), 1024)
        if not data or b"\x1d" in data:
            selector.unregister(sys.stdin)
        if b"\x1d" in data:
            raise KeyboardInterrupt
        with contextlib.suppress(OSError):
            port.sendall(data or b"\x04")

    def _verdict(
        self, outcome: tuple[str, bytes | None], qemu: int, complaint: str, log: str
    ) -> int:
        """The status to exit with; explains it unless it is the command's own."""
        reason, trailer = outcome
        console = self._console
        status = int(trailer) if trailer and trailer.isdigit() else None
        if console.panic:
            return self._explain(PANIC, f"the guest panicked: {console.panic}", log)
        if reason == "boot":
            return self._explain(
                HANG, f"the guest did not boot in {BOOT_TIMEOUT_S} s", log
            )
        if reason and status is not None:
            return self._explain(HANG, "the guest hangs at power-off", log)
        if reason and console.hangs:
            return self._explain(HANG, f"the guest hangs: {console.hangs[0]}", log)
        if reason:
            return self._explain(TIMEOUT, f"time-out after {self.timeout_s:.0f} s", log)
        if qemu:
            return self._explain(
                SETUP,
                f"QEMU failed with status {qemu}: {complaint or 'no message'}",
                log,
            )
        if status is None:
            return self._explain(
                GONE, "the guest went down before the command ended", log
            )
        found = console.complaints + console.hangs
        if found and not self.allow_warnings:
            listed = "\n".join(f"    {line}" for line in found[:10])
            text = (
                f"the guest's kernel complained (the command's status was {status}):\n"
            )
            return self._explain(COMPLAINT, text + listed, log)
        return status

    def _judge(self, host: untrusted.Host, status: int) -> int:
        """The status, or SHOWN if disks were shown memory that is not shared."""
        reports, complaints = host.end()
        for line in reports:
            print(f"ccvm: {line}", file=sys.stderr, flush=True)
        # A QEMU that did not start has not connected to them.
        if not complaints or status == SETUP:
            return status
        text = "\n".join(complaints)
        print(f"ccvm: {text}\nccvm: status {SHOWN}", file=sys.stderr, flush=True)
        return SHOWN

    def _explain(self, status: int, text: str, log: str) -> int:
        tail = "\n".join(f"  | {line}" for line in self._console.tail)
        print(
            f"{tail}\nccvm: {text}\nccvm: status {status}, console: {log}",
            file=sys.stderr,
            flush=True,
        )
        return status


def _end(process: subprocess.Popen) -> None:
    """Ends QEMU if it still runs."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _raw_terminal():
    """Makes the terminal pass on every key; restores it afterwards."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    print("ccvm: Ctrl-] ends the guest\r", file=sys.stderr, flush=True)
    try:
        tty.setraw(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _sweep(folder: Path) -> None:
    """If a run is over, removes its folder, and the files that it left elsewhere."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shared = folder / "shared"
        if shared.is_symlink():
            shared.readlink().unlink(missing_ok=True)
        for name in ("socket", "vhost"):
            if (folder / name).is_symlink():
                shutil.rmtree((folder / name).readlink(), ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _run_folder():
    """A folder for one run; folders of runs that were killed are swept."""
    parent = cache.root() / "run"
    parent.mkdir(exist_ok=True)
    with cache.lock("run"):
        for old in parent.iterdir():
            with contextlib.suppress(FileNotFoundError):
                _sweep(old)
        folder = Path(tempfile.mkdtemp(dir=parent))
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)
