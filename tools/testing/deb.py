# SPDX-License-Identifier: GPL-2.0
"""Builds installable Debian packages of a guest's kernel with cc_swiotlb.

The configuration is Debian's own for clouds; tools/deb says what of it is left.
"""

import argparse
import shutil
import sys
import time
from pathlib import Path

from lib import deb, progress, session
from lib.failure import Failure


def main() -> int:
    """Does what the command line says."""
    parser = argparse.ArgumentParser(prog="deb", description=__doc__)
    parser.add_argument("out", metavar="FOLDER", type=Path, help="where they go")
    parser.add_argument(
        "--test",
        action="store_true",
        help="those for the emulated confidential guest, which nobody should install",
    )
    arguments = parser.parse_args()
    started = time.monotonic()
    try:
        packages = deb.build(arguments.test)
        arguments.out.mkdir(parents=True, exist_ok=True)
        for old in arguments.out.glob("linux-*.deb"):
            old.unlink()
        for package in packages:
            shutil.copyfile(package, arguments.out / package.name)
            size = package.stat().st_size / (1 << 20)
            print(f"{arguments.out / package.name} {size:.1f} MiB")
    except (Failure, OSError) as error:
        print(f"deb: {error}", file=sys.stderr)
        return session.SETUP
    except KeyboardInterrupt:
        return 130
    took = progress.duration(time.monotonic() - started)
    progress.note(f"the packages are ready after {took}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
