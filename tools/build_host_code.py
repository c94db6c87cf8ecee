"""Build the engine's helpers in the host's machine code from their C sources, with gcc for x86-64.

python -m tools.build_host_code           # writes NAME.bin beside NAME.c
python -m tools.build_host_code --check   # says which of them differ, and exits with 1 if any does
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tools.build_guests import command_line

FOLDER = Path(__file__).resolve().parents[1] / "src" / "gunyah" / "machine" / "engine" / "host_code"
FLAGS = [
    "-O2", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-fpie", "-march=x86-64", "-mgeneral-regs-only",
    "-fno-jump-tables", "-fno-stack-protector", "-fcf-protection=none", "-fno-asynchronous-unwind-tables",
    "-nostdlib", "-static", "-Wl,--build-id=none", "-Wl,--no-warn-rwx-segments", "-Wl,-e,entry",
]  # fmt: skip


def sources(folder: Path = FOLDER) -> list[Path]:
    """The sources of all helpers."""
    return sorted(folder.glob("*.c"))


def build(source: Path) -> bytes:
    """Compile one helper into position-independent bytes; raises CalledProcessError, FileNotFoundError without gcc."""
    with tempfile.TemporaryDirectory() as folder:
        linked, binary = Path(folder) / "helper.elf", Path(folder) / "helper.bin"
        layout = f"-Wl,-T,{source.parent / 'layout.ld'}"
        subprocess.run(["gcc", *FLAGS, layout, "-o", str(linked), str(source)], check=True)
        subprocess.run(["objcopy", "-O", "binary", "-j", ".blob", str(linked), str(binary)], check=True)
        return binary.read_bytes()


if __name__ == "__main__":
    sys.exit(command_line(__doc__ or "", sources(), build))
