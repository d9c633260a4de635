# SPDX-License-Identifier: GPL-2.0
"""Runs a command in a test guest whose I/O bounces through cc_swiotlb.

What is missing (tools, kernel source, kernel, guest file system) is made
first; its progress goes to standard error.
"""

import argparse
import signal
import sys
from pathlib import Path

from lib import (
    deb,
    disks,
    initramfs,
    kernel,
    machine,
    progress,
    session,
    source,
    toolchain,
)
from lib.failure import Failure

STATUSES = """
exit status: the command's own, or
  119  a disk of --vhost-blk was shown memory that is not shared, or has failed
  120  the guest hangs: it did not reach the command, or the time was up after
       its kernel had reported a lock-up, a stall or a hung task
  121  the guest's kernel panicked
  122  the guest went down before the command ended
  123  the guest's kernel complained on its console (WARNING, BUG, lockdep,
       KASAN, UBSAN, soft lock-up, hung task, ...), whatever the command's
       status; --allow-warnings leaves the command's status
  124  the time was up
  125  set-up, build or QEMU failed
The message on standard error says which it was and shows the console's end.
"""

RUN = """
Boots a guest and runs COMMAND with a shell as root in it.  Several words are
joined with blanks, so that quoting works as with ssh.  Only the command's
standard output goes to standard output, its errors go to standard error, the
console goes to a file that is named there.  Without COMMAND there is an
interactive shell, or, if standard input is not a terminal, the commands are
read from it.

In the guest: busybox, fio, mkfs.xfs, mkfs.ext4, e2fsck; sysfs,
debugfs and tracefs mounted; /dev/nvme<N>n1, /dev/vd<X> (those of --blk, then those of
--vhost-blk) and /dev/sd<X> (virtio-scsi and AHCI), 1 GiB each, empty.
"""


def _add_flavour(parser: argparse.ArgumentParser) -> None:
    """Which kernel."""
    parser.add_argument(
        "--flavour",
        choices=kernel.BOOTED,
        default="guest",
        help="the kernel: as configured by tools/testing/configs, guest unless given",
    )
    parser.add_argument(
        "--debug",
        action="store_const",
        dest="flavour",
        const="debug",
        help="the kernel with KASAN, lockdep and so on",
    )


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="ccvm",
        description=__doc__,
        epilog=STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="action", required=True)
    run = commands.add_parser(
        "run",
        help="boot a guest and run a command in it",
        description=RUN,
        epilog=STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = run.add_argument
    add(
        "--guest",
        choices=("coco", "plain"),
        default="coco",
        help="an (emulated) confidential guest, or a plain one that bounces; coco",
    )
    add(
        "--swiotlb",
        choices=("cc", "legacy"),
        default="cc",
        help="who bounces: cc_swiotlb or what the kernel had before; cc",
    )
    add("--cpus", type=int, default=2, metavar="N", help="1 to 64, 2 unless given")
    add("--mem", default="1G", metavar="SIZE", help="256M to 32G, 1G unless given")
    add(
        "--nodes",
        default="1",
        metavar="N",
        help="NUMA nodes, 1; they have equal shares of CPUs and memory, or, as in "
        "4:512M,0:512M, those that are named",
    )
    add("--nvme", type=int, default=1, metavar="N", help="NVMe disks, 1")
    add("--blk", type=int, default=1, metavar="N", help="virtio disks, 1")
    add("--scsi", type=int, default=0, metavar="N", help="virtio-scsi disks, 0")
    add("--ahci", type=int, default=0, metavar="N", help="SATA disks (AHCI), 0")
    add(
        "--vhost-blk",
        type=int,
        default=0,
        metavar="N",
        help="virtio disks that have a process each, which is handed the shared memory "
        "alone, 0; what they counted goes to standard error at the end",
    )
    add(
        "--vhost-mode",
        default="honest",
        metavar="MODE,...",
        help="how each of them behaves, the last one for all that follow: honest, or "
        "one of the hostile ones of Documentation/testing.rst",
    )
    add(
        "--vhost-seed",
        type=int,
        default=1,
        metavar="N",
        help="of all that they do at random; the next one has the next number; 1",
    )
    add(
        "--vhost-window",
        type=int,
        default=0,
        metavar="MIB",
        help="have them take only so much of it for shared, so that they report a "
        "guest that does nothing wrong",
    )
    add(
        "--vhost-seek",
        default="",
        metavar="WORD,...",
        help="have them count these words in buffers that they are to fill: what was "
        "in them before",
    )
    add(
        "--plug",
        action="append",
        default=[],
        metavar="SIZE@S",
        help="plug so much memory S seconds after the command's start, which the guest "
        "puts online; a multiple of 128M; may be repeated",
    )
    add(
        "--net",
        action="store_true",
        help="virtio-net on QEMU's user network: the host's loopback is 10.0.2.2",
    )
    add(
        "--latency-ms",
        type=int,
        default=0,
        metavar="N",
        help="hold every disk request for so long (at most 16 at a time on a disk)",
    )
    add(
        "--null-ms",
        type=int,
        default=None,
        metavar="N",
        help="disks of all kinds store nothing, read as zeroes and hold every request "
        "for so long, any number at a time; 0 is not at all",
    )
    add(
        "--convert-us",
        type=int,
        default=0,
        metavar="N",
        help="what converting a 4 KiB page between private and shared costs",
    )
    add(
        "--append", default="", metavar="STR", help="more for the kernel's command line"
    )
    add(
        "--add",
        action="append",
        type=Path,
        default=[],
        metavar="PATH",
        help="a file or folder that the guest has in /host; may be repeated",
    )
    _add_flavour(run)
    add(
        "--deb",
        action="store_true",
        help="the kernel of make check-deb, in the Debian system that its package is "
        "installed into, which has a disk of its own; shell and programs are Debian's",
    )
    add(
        "--timeout",
        type=float,
        default=None,
        metavar="S",
        help="from the start of QEMU to the end of the command, in seconds; 600, none for"
        " an interactive shell",
    )
    add(
        "--allow-warnings",
        action="store_true",
        help="do not fail for what the guest's kernel complains about",
    )
    add(
        "--shared-file",
        type=Path,
        metavar="PATH",
        help="keep the host's view of the guest's shared memory in this file; "
        "offset N is guest-physical address N",
    )
    add("--console", metavar="PATH", help="where the console goes; - is standard error")
    add(
        "--accel",
        default="",
        help="QEMU's accelerator; tcg,thread=multi: CPUs run in parallel",
    )
    add("--qemu-append", default="", metavar="STR", help="more for QEMU's command line")
    add("command", nargs="*", metavar="COMMAND")

    for name, text in (
        ("build", "build a kernel"),
        ("kdir", "print the kernel's build folder, for external modules"),
        ("make-args", "print the make variables that choose the kernel's toolchain"),
    ):
        _add_flavour(commands.add_parser(name, help=text))
    commands.add_parser("setup", help="unpack the kernel source, say which it is")
    own, separator, command = arguments, [], []
    if "--" in arguments:
        at = arguments.index("--")
        own, separator, command = arguments[:at], ["--"], arguments[at + 1 :]
    result = parser.parse_args(own)
    if separator and result.action == "run":
        result.command = [*result.command, *command]
    return result


def run(arguments: argparse.Namespace) -> int:
    """Runs a guest."""
    if not 1 <= arguments.cpus <= machine.MAX_CPUS:
        raise Failure(f"--cpus {arguments.cpus}: from 1 to {machine.MAX_CPUS}")
    for path in arguments.add:
        if not path.exists():
            raise Failure(f"--add {path}: there is no such file")
    if not arguments.deb and arguments.flavour == "debug":
        for option in ("net", "scsi", "ahci"):
            if getattr(arguments, option):
                raise Failure(f"--{option}: the debug kernel has no driver for it")
    memory = machine.parse_size(arguments.mem)
    options = machine.Options(
        guest=arguments.guest,
        swiotlb=arguments.swiotlb,
        cpus=arguments.cpus,
        memory=memory,
        nodes=machine.parse_nodes(arguments.nodes, arguments.cpus, memory),
        nvme=arguments.nvme,
        blk=arguments.blk,
        scsi=arguments.scsi,
        ahci=arguments.ahci,
        vhost_blk=arguments.vhost_blk,
        vhost_modes=arguments.vhost_mode.split(","),
        vhost_seed=arguments.vhost_seed,
        vhost_window=arguments.vhost_window * machine.MIB,
        vhost_seek=arguments.vhost_seek,
        plugs=[machine.parse_plug(each) for each in arguments.plug],
        net=arguments.net,
        latency_ms=arguments.latency_ms,
        null_ms=arguments.null_ms,
        convert_us=arguments.convert_us,
        append=arguments.append,
        accel=arguments.accel,
        qemu=arguments.qemu_append.split(),
    )
    disks.check(options)
    if arguments.deb:
        built = deb.installed()
        options.append = f"{built.arguments} {options.append}"
        options.qemu += built.disk
        guest = session.Session(options, built, built.initramfs)
    else:
        built = kernel.build(arguments.flavour)
        guest = session.Session(options, built, initramfs.build())
    guest.added = [path.absolute() for path in arguments.add]
    guest.allow_warnings = arguments.allow_warnings
    guest.shared_file = arguments.shared_file
    guest.console_path = arguments.console
    if arguments.command:
        guest.command = " ".join(arguments.command)
    elif not sys.stdin.isatty():
        guest.command = sys.stdin.read()
    if arguments.timeout is not None:
        guest.timeout_s = arguments.timeout
    elif guest.command is None:
        guest.timeout_s = 0
    return guest.run()


def stop(number: int, _frame) -> None:
    """Ends the run as Ctrl-C does, so that nothing is left behind."""
    raise SystemExit(128 + number)


def main() -> int:
    """Does what the command line says."""
    arguments = parse(sys.argv[1:])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        match arguments.action:
            case "run":
                return run(arguments)
            case "build":
                kernel.build(arguments.flavour)
            case "kdir":
                print(kernel.build(arguments.flavour).folder)
            case "make-args":
                compiler = kernel.FLAVOURS[arguments.flavour].compiler
                print(" ".join(toolchain.make_arguments(compiler)))
            case "setup":
                progress.note(f"kernel source: {source.pristine().title}")
    except (Failure, OSError) as error:
        print(f"ccvm: {error}", file=sys.stderr)
        return session.SETUP
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
