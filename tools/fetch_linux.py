"""Fetch Debian's arm64 kernel and a static busybox, by package name, with apt's own client; make a small initramfs.

    python tools/fetch_linux.py            # the cloud flavour, into the cache; prints where things are
    python tools/fetch_linux.py --full     # Debian's full flavour instead

The system's package state is not touched: apt works on a private state in the cache directory, with arm64 as its
architecture and the system's own sources and keys. Nothing is installed, and no root rights are needed. What is there
already is not fetched again. Tests find the result here; where there is no apt, GUNYAH_LINUX_IMAGE and
GUNYAH_LINUX_INITRD name files of your own (busybox init, see INIT).
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODULES = ("virtio_ring", "virtio", "virtio_mmio", "virtio_blk", "virtio_console", "virtio-rng")
"""Modules of the kernel that are kept beside it, in an order in which they can be loaded."""
PACKAGES = {False: "linux-image-cloud-arm64", True: "linux-image-arm64"}
BUSYBOX = "busybox-static"

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /bin
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox mount -t tmpfs tmpfs /tmp
/bin/busybox --install -s /bin
export PATH=/bin HOME=/ PS1='guest# ' TERM=linux
cd /tmp
echo "guest: init"
exec setsid cttyhack sh
"""
"""What runs as process 1: a shell on the console, with everything of busybox under its own name."""


def cache_directory() -> Path:
    """Where fetched files live, outside the source tree: $XDG_CACHE_HOME/gunyah/linux."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gunyah" / "linux"


class Apt:
    """apt's client on a private state below ``root``, for architecture arm64."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("state/lists/partial", "cache/archives/partial", "downloads"):
            (root / name).mkdir(parents=True, exist_ok=True)
        (root / "status").touch()
        self._options = [
            f"Dir::State={root / 'state'}",
            f"Dir::State::status={root / 'status'}",
            f"Dir::Cache={root / 'cache'}",
            "APT::Architecture=arm64",
            "APT::Architectures=arm64",
            "APT::Sandbox::User=",
            "Acquire::Languages=none",
        ]

    def run(self, program: str, *arguments: str) -> str:
        """Run one of apt's programs and give its output; raises SystemExit with its words."""
        command = [program, "-q", *(word for option in self._options for word in ("-o", option)), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.root / "downloads")
        if done.returncode:
            words = (done.stderr or done.stdout).strip().splitlines()
            raise SystemExit(f"{program} {' '.join(arguments)} failed: {words[-1] if words else done.returncode}")
        return done.stdout

    def real_name(self, package: str) -> str:
        """What a package of kernels stands for: its first dependency that is an image."""
        for line in self.run("apt-cache", "depends", package).splitlines():
            kind, _, name = line.strip().partition(": ")
            if kind == "Depends" and name.startswith("linux-image-"):
                return name
        raise SystemExit(f"{package} depends on no linux-image package")

    def fetch(self, package: str, target: Path) -> None:
        """Download a package and unpack it into ``target``."""
        downloads = self.root / "downloads"
        for old in downloads.glob(f"{package}_*.deb"):
            old.unlink()
        self.run("apt-get", "download", package)
        (archive,) = downloads.glob(f"{package}_*.deb")
        subprocess.run(["dpkg-deb", "-x", str(archive), str(target)], check=True)
        archive.unlink()


def cpio_entry(name: str, mode: int, data: bytes, inode: int) -> bytes:
    """One file of a cpio archive in the "newc" format."""
    raw_name = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw_name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    entry = header + raw_name
    entry += bytes(-len(entry) % 4) + data
    return entry + bytes(-len(entry) % 4)


def make_initramfs(busybox: bytes, init: str = INIT) -> bytes:
    """A cpio archive with busybox, an init script and a console; the same bytes for the same input."""
    character_device = 0o020600
    entries = [
        ("bin", 0o040755, b""),
        ("dev", 0o040755, b""),
        ("bin/busybox", 0o100755, busybox),
        ("init", 0o100755, init.encode()),
    ]
    archive = b"".join(cpio_entry(name, mode, data, inode) for inode, (name, mode, data) in enumerate(entries, 1))
    # /dev/console, major 5 minor 1: process 1 has its standard files on it before anything is mounted.
    console = cpio_entry("dev/console", character_device, b"", len(entries) + 1)
    archive += console[:78] + b"%08X%08X" % (5, 1) + console[94:]
    return archive + cpio_entry("TRAILER!!!", 0, b"", 0)


def fetch(cache: Path, *, full: bool = False, max_age_days: float = 30.0) -> tuple[Path, Path]:
    """Bring kernel and initramfs into ``cache``; gives their paths. Raises SystemExit with one sentence."""
    flavour = "full" if full else "cloud"
    kernel, initrd = cache / f"Image-{flavour}", cache / "initramfs.cpio"
    if kernel.exists() and initrd.exists():
        return kernel, initrd
    for program in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(program) is None:
            raise SystemExit(
                f"{program} is not here: set GUNYAH_LINUX_IMAGE (an arm64 Image) and GUNYAH_LINUX_INITRD (an initramfs)"
            )
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        # Test processes that run at the same time fetch once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        _fetch_missing(cache, kernel, initrd, full, max_age_days)
    return kernel, initrd


def modules(cache: Path, *, full: bool = False) -> list[Path]:
    """MODULES of the kernel that ``fetch`` gave, in that order; raises SystemExit with one sentence."""
    flavour = "full" if full else "cloud"
    kernel, folder = cache / f"Image-{flavour}", cache / f"modules-{flavour}"
    kept = [folder / f"{name}.ko" for name in MODULES]
    if not all(path.exists() for path in kept):
        # They must be of the very kernel, which comes anew with them.
        fetch(cache, full=full)
        with (cache / "lock").open("w") as lock, tempfile.TemporaryDirectory(dir=cache) as name:
            fcntl.flock(lock, fcntl.LOCK_EX)
            apt = Apt(cache / "apt")
            apt.fetch(apt.real_name(PACKAGES[full]), Path(name))
            _keep_kernel(Path(name), kernel)
    return kept


def extra_initramfs(files: dict[str, bytes]) -> bytes:
    """A cpio archive to be put behind another one: directories of the paths first, then the files."""
    folders = sorted({str(parent) for path in files for parent in Path(path).parents} - {"."})
    entries = [(folder, 0o040755, b"") for folder in folders]
    entries += [(path, 0o100644, data) for path, data in files.items()]
    archive = b"".join(cpio_entry(name, mode, data, inode) for inode, (name, mode, data) in enumerate(entries, 0x1000))
    return archive + cpio_entry("TRAILER!!!", 0, b"", 0)


def _keep_kernel(unpacked: Path, kernel: Path) -> None:
    """Move the image and MODULES of an unpacked package into the cache."""
    (image,) = (unpacked / "boot").glob("vmlinuz-*")
    folder = kernel.parent / kernel.name.replace("Image-", "modules-")
    folder.mkdir(exist_ok=True)
    for name in MODULES:
        for found in unpacked.rglob(f"{name}.ko"):
            found.replace(folder / found.name)
    image.replace(kernel)


def _fetch_missing(cache: Path, kernel: Path, initrd: Path, full: bool, max_age_days: float) -> None:
    apt = Apt(cache / "apt")
    stamp = cache / "apt" / "updated"
    if not stamp.exists() or time.time() - stamp.stat().st_mtime > max_age_days * 86400:
        apt.run("apt-get", "update")
        stamp.touch()
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        target = Path(folder)
        if not kernel.exists():
            apt.fetch(apt.real_name(PACKAGES[full]), target)
            _keep_kernel(target, kernel)
        if not initrd.exists():
            apt.fetch(BUSYBOX, target)
            found = [path for path in (target / "bin/busybox", target / "usr/bin/busybox") if path.exists()]
            new = target / "initramfs.cpio"
            new.write_bytes(make_initramfs(found[0].read_bytes()))
            new.replace(initrd)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--full", action="store_true", help="Debian's full kernel instead of the cloud flavour")
    parser.add_argument("--cache", type=Path, default=cache_directory(), help="default: %(default)s")
    options = parser.parse_args()
    kernel, initrd = fetch(options.cache, full=options.full)
    print(f"GUNYAH_LINUX_IMAGE={kernel}")
    print(f"GUNYAH_LINUX_INITRD={initrd}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
