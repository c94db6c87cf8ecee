"""Run directories: one per living system, found by others, removed when the system has gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gunyah.host.errors import HostError
from gunyah.host.rundir import RunDirectory, base_directory, running_systems


def test_base_follows_xdg_runtime_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert base_directory() == tmp_path / "gunyah"


def test_base_without_xdg_runtime_dir_is_the_users_own_temporary_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert base_directory() == tmp_path / f"gunyah-{os.getuid()}"


def test_a_directory_exists_for_as_long_as_its_system(tmp_path: Path) -> None:
    with RunDirectory(base=tmp_path) as directory:
        assert directory.path.parent == tmp_path
        assert directory.path.stat().st_mode & 0o777 == 0o700
        assert list(running_systems(tmp_path)) == [directory.path]
    assert not directory.path.exists()
    assert list(running_systems(tmp_path)) == []


def test_two_systems_of_one_process_do_not_meet(tmp_path: Path) -> None:
    with RunDirectory(base=tmp_path) as one, RunDirectory(base=tmp_path) as other:
        assert one.path != other.path
        assert set(running_systems(tmp_path)) == {one.path, other.path}


def test_a_name_that_is_taken_is_refused_with_one_sentence(tmp_path: Path) -> None:
    with (
        RunDirectory("demo", base=tmp_path),
        pytest.raises(HostError, match=r"a system named 'demo' is already running"),
    ):
        RunDirectory("demo", base=tmp_path)


@pytest.mark.parametrize("name", ["", "a/b", "..", "x" * 65])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(HostError, match="is no name for a run directory"):
        RunDirectory(name, base=tmp_path)


def test_what_a_killed_process_left_is_cleaned_by_the_next_system(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, sys\n"
        "from gunyah.host.rundir import RunDirectory\n"
        "directory = RunDirectory(base=pathlib.Path(sys.argv[1]))\n"
        "directory.link('ttyGH0', '/dev/null')\n"
        "print(directory.path, flush=True)\n"
        "os._exit(9)\n"
    )
    died = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60
    )
    left_over = Path(died.stdout.strip())
    assert (left_over / "ttyGH0").is_symlink()
    with RunDirectory(base=tmp_path):
        assert not left_over.exists()


def test_links_are_replaced_in_one_step(tmp_path: Path) -> None:
    with RunDirectory(base=tmp_path) as directory:
        link = directory.link("ttyGH0", "/dev/null")
        assert directory.link("ttyGH0", "/dev/zero") == link
        assert link.readlink() == Path("/dev/zero")
        directory.unlink("ttyGH0")
        directory.unlink("ttyGH0")
        assert not link.is_symlink()


def test_a_base_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match=r"the run directory .*/file/gunyah cannot be made: Not a directory"):
        RunDirectory(base=tmp_path / "file" / "gunyah")


def test_a_base_that_is_no_directory_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(HostError, match="is not a directory"):
        RunDirectory(base=tmp_path / "link")
