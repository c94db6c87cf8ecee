"""A stock Linux finds a performance monitor and debug registers, and what it does with them works (perf, ptrace)."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.native.conftest import fetch_tool
from tests.native.shell import Shell

PROGRAM = Path(__file__).with_name("measure.elf")
LOOPS = 200_000


@pytest.mark.linux
def test_linux_counts_cycles_watches_memory_and_steps_programs(linux: tuple[Path, Path], tmp_path: Path) -> None:
    # Given a RAM disk that has one program more,
    kernel, initrd = linux
    tool = fetch_tool()
    archive = initrd.read_bytes()
    archive += bytes(-len(archive) % 512)
    archive += tool.cpio_entry("measure", 0o100755, PROGRAM.read_bytes(), 1) + tool.cpio_entry("TRAILER!!!", 0, b"", 0)
    bigger = tmp_path / "initramfs"
    bigger.write_bytes(archive)
    with Shell((kernel, bigger)) as shell:
        # when that uses what the kernel has found,
        log = shell.run("dmesg | grep -E 'hw-breakpoint|perfevents'")
        assert "found 6 breakpoint and 4 watchpoint registers" in log
        assert "7 counters available" in log
        found = dict(line.rsplit(" ", 1) for line in shell.run("/measure").splitlines())
        numbers = {name: int(value) for name, value in found.items()}
        # then cycles of the program are its own, one to an instruction of its loop,
        assert 3 * LOOPS <= numbers["user cycles"] <= 8 * LOOPS, numbers
        assert 0 < numbers["kernel cycles"] < LOOPS, numbers
        # each store to a watched word and each call is seen, and nothing else,
        assert (numbers["writes"], numbers["reads"], numbers["calls"]) == (10, 0, 7)
        # and a program that is stepped comes to its end.
        assert numbers["steps"] > 200 and numbers["status"] == 5
        assert shell.end("poweroff -f") == "off"
