"""The command line answers at once, takes one command, and says bad input in one line with exit status 1."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gunyah import __version__
from gunyah.cli.main import COMMANDS, main

HEAVY = ("rich", "unicorn", "greenlet", "asyncio", "tomllib", "socket", "gunyah.hypervisor", "gunyah.linux")


def gunyah(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gunyah.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


def test_version_is_the_packages() -> None:
    answer = gunyah("--version")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, f"gunyah {__version__}\n", "")


def test_the_package_runs_as_the_command_does() -> None:
    answer = subprocess.run([sys.executable, "-m", "gunyah", "--version"], capture_output=True, text=True, timeout=60)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, f"gunyah {__version__}\n", "")


def test_help_names_every_command() -> None:
    answer = gunyah("--help")
    assert answer.returncode == 0
    assert all(f"    {name} " in answer.stdout or f"    {name}\n" in answer.stdout for name in COMMANDS)


@pytest.mark.parametrize("flag", ["--version", "--help"])
def test_the_quick_answers_load_nothing_heavy(flag: str) -> None:
    script = (
        "import sys\nfrom gunyah.cli.main import main\n"
        f"try: main(['{flag}'])\nexcept SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stderr == "[]\n"


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    assert f"usage: gunyah {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["fly"], "gunyah: argument COMMAND: invalid choice: 'fly'"),
        (["--fast"], "gunyah: unrecognized arguments: --fast"),
        (["lint"], "gunyah lint: the following arguments are required: FILE"),
        (["lint", "absent.dtb"], "gunyah: absent.dtb cannot be read: No such file or directory"),
        (["rm"], "gunyah rm: the following arguments are required: action\n"),
        (["rm", "call", "FLY"], "gunyah: 'FLY' is no request of the Resource Manager; gunyah rm list names them"),
        (["trace", "--seconds", "nan"], "gunyah trace: argument --seconds: 'nan' is not a number of seconds above 0"),
        (["top", "--seconds", "0"], "gunyah top: argument --seconds: '0' is not a number of seconds above 0"),
        (["demo", "--seed", "x"], "gunyah demo: argument --seed: 'x' is not a whole number"),
        (["run", "--kernel", "absent", "--gdb-wait"], "gunyah: --gdb-wait needs --gdb PORT"),
        (
            ["run", "a.toml", "--memory", "1G"],
            "gunyah: --memory goes with --kernel; a.toml says all of its system itself",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_status_1(arguments: list[str], sentence: str) -> None:
    answer = gunyah(*arguments)
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert answer.stderr.startswith(sentence)
    assert answer.stderr.count("\n") == 1


def test_output_that_nobody_reads_is_no_error_message() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(0.2)\nfrom gunyah.cli.main import main; main([])"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait(timeout=60)
