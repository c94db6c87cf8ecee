"""A Linux guest with a shell on its console, driven as a person would."""

from __future__ import annotations

from pathlib import Path

from gunyah.native import NativePrimary
from gunyah.system import System

PROMPT = b"guest# "
BOOT_SECONDS = 120.0
"""Of the machine's virtual clock; a boot takes two."""


class Shell:
    """A system whose primary VM has booted to the prompt; a context manager."""

    def __init__(self, linux: tuple[Path, Path], *, vcpus: int = 1, bootargs: str = "", profile: str = "2023") -> None:
        kernel, initrd = linux
        self.primary = NativePrimary(kernel=kernel, ramdisk=initrd, bootargs=f"console=ttyAMA0 {bootargs}")
        self.system = System(self.primary, clock="virtual", seed=1, memory=256 << 20, vcpus=vcpus, profile=profile)

    def __enter__(self) -> Shell:
        self.system.start()
        self._wait(0, BOOT_SECONDS)
        return self

    def __exit__(self, *reason: object) -> None:
        self.system.close()

    def _wait(self, start: int, seconds: float) -> str:
        output = self.primary.output
        found = self.system.run(until=lambda: output.find(PROMPT, start) >= 0, timeout=seconds)
        text = output[start:].decode("utf-8", "replace")
        assert found, f"no prompt after {seconds} s: {self.system.last_words()}\n{text[-2000:]}"
        return text

    def type(self, keys: bytes, seconds: float = 60.0) -> str:
        """Press keys; what comes until the next prompt."""
        start = len(self.primary.output)
        self.primary.type(keys)
        return self._wait(start, seconds)

    def run(self, command: str, seconds: float = 60.0) -> str:
        """What a command prints."""
        text = self.type(command.encode() + b"\n", seconds)
        _, _, answer = text[: text.index(PROMPT.decode())].replace("\r\n", "\n").partition("\n")
        return answer.rstrip("\n")

    def wait_for(self, words: bytes, seconds: float = 60.0) -> None:
        """Run until something stands on the console."""
        assert self.system.run(until=lambda: words in self.primary.output, timeout=seconds), self.text[-2000:]

    def end(self, command: str, seconds: float = 60.0) -> str:
        """Give a command that stops the machine; why it stopped."""
        self.primary.type(command.encode() + b"\n")
        self.system.run(until=lambda: self.system.stopped is not None, timeout=seconds)
        return self.system.stopped or "still running"

    @property
    def text(self) -> str:
        """Everything on the console so far."""
        return self.primary.output.decode("utf-8", "replace")
