"""Random numbers that no guest can foresee from those it was given, and that a seed repeats.

Guests get as many as they ask for (TRNG, PRNG), and the same source makes the keys that scramble capability ids: what
one VM has drawn must tell nothing about what another one was or will be given. Each block is a keyed hash of its
number.
"""

from __future__ import annotations

from hashlib import blake2b

__all__ = ["Entropy"]


class Entropy:
    """The random numbers of one hypervisor; ``seed`` is any integer."""

    def __init__(self, seed: int) -> None:
        size = max(1, (seed.bit_length() + 8) // 8)
        self._key = blake2b(seed.to_bytes(size, "little", signed=True), digest_size=32).digest()
        self._blocks = 0

    def randbytes(self, size: int) -> bytes:
        """``size`` random bytes, which belong to this call alone."""
        blocks = []
        for _ in range(-(-size // blake2b.MAX_DIGEST_SIZE)):
            self._blocks += 1
            blocks.append(blake2b(self._blocks.to_bytes(8, "little"), key=self._key).digest())
        return b"".join(blocks)[:size]

    def getrandbits(self, bits: int) -> int:
        """A number of ``bits`` random bits."""
        return int.from_bytes(self.randbytes(-(-bits // 8)), "little") >> -bits % 8
