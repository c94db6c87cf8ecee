"""The one exception type of the host's surfaces: a sentence for the person at the terminal.

The command line prints it on stderr and exits with 1 (contract: bad input is one clear line).
"""

from __future__ import annotations

__all__ = ["HostError"]


class HostError(Exception):
    """Something on the user's machine is not as needed; ``str()`` is one sentence with the values in it."""


def reason(error: OSError) -> str:
    """What the operating system said, without the errno decoration: ``Permission denied``."""
    return error.strerror or str(error)
