"""Build the test guests of gunyah.vmm.guests from their sources, with Debian's binutils-aarch64-linux-gnu.

python tools/build_guests.py           # writes NAME.bin beside NAME.S
python tools/build_guests.py --check   # says which of them differ, and exits with 1 if any does
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "src" / "gunyah" / "vmm" / "guests"
PREFIX = "aarch64-linux-gnu-"


def sources(folder: Path = FOLDER) -> list[Path]:
    """The sources of all guests."""
    return sorted(folder.glob("*.S"))


def build(source: Path) -> bytes:
    """Assemble one guest into a flat binary; raises CalledProcessError, or FileNotFoundError without the tools."""
    with tempfile.TemporaryDirectory() as folder:
        assembled, binary = Path(folder) / "guest.o", Path(folder) / "guest.bin"
        assemble = [f"{PREFIX}as", "-march=armv8-a+crc", "-I", str(source.parent), "-o", str(assembled), str(source)]
        subprocess.run(assemble, check=True)
        subprocess.run([f"{PREFIX}objcopy", "-O", "binary", str(assembled), str(binary)], check=True)
        return binary.read_bytes()


def command_line(description: str, sources: Iterable[Path], build: Callable[[Path], bytes]) -> int:
    """Write what `build` makes of each source beside it, or with --check say what differs; gives the exit status."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args()
    different = 0
    for source in sources:
        binary, built = source.with_suffix(".bin"), build(source)
        if binary.exists() and binary.read_bytes() == built:
            continue
        different += 1
        print(f"{binary.name}: {'differs' if options.check else 'written'}, {len(built)} bytes")
        if not options.check:
            binary.write_bytes(built)
    return 1 if options.check and different else 0


if __name__ == "__main__":
    sys.exit(command_line(__doc__ or "", sources(), build))
