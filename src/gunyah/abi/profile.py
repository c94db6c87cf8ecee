"""ABI generations as profiles of a VM: what differs between guests of the v4 series and later ones.

A guest of one generation cannot be served with the other's answers (linux-clients.md 1 and 9, rm-rpc.md 1.8), so
identity, GET_VMID form and message sizes belong to the VM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from gunyah.abi.identify import UID_PUBLIC, UID_V4

__all__ = ["PROFILES", "PUBLIC_2023", "Profile", "V4"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One ABI generation."""

    name: str
    uid: tuple[int, int, int, int]
    """W0..W3 of CALL_UID."""
    get_vmid_request_lengths: frozenset[int]
    """Payload lengths (bytes) of VM_GET_VMID that RM accepts."""
    get_vmid_reply: str
    """Form of the VMID after the error word: "u16" (2 bytes) or "u32" (4 bytes)."""
    message_size: int
    """Maximum message size (bytes) of the RM queues, both directions, as the hypervisor configures it (1..1023)."""
    queue_depth: int
    """Messages an RM queue holds (1..255)."""
    packet_max: int
    """Largest RM packet (bytes, header included) that the guest sends and is ready to receive."""
    rm_packet_max: int
    """Largest packet that RM sends to such a guest."""

    def accepts_get_vmid(self, length: int) -> bool:
        """Whether RM takes a VM_GET_VMID request with ``length`` payload bytes."""
        return length in self.get_vmid_request_lengths

    def pack_vmid(self, vmid: int) -> bytes:
        """What follows the error word in a VM_GET_VMID reply."""
        return vmid.to_bytes(2 if self.get_vmid_reply == "u16" else 4, "little")


V4 = Profile(
    name="v4",
    uid=UID_V4,
    get_vmid_request_lengths=frozenset({0, 4}),
    get_vmid_reply="u16",
    # The driver asks for 1024; the hypervisor's check is "strictly less", so 1023 is the most a queue can have.
    message_size=1023,
    queue_depth=8,
    packet_max=1024,
    rm_packet_max=240,
)
"""The 2022 series, unmodified: old UID order, GET_VMID reply of exactly 2 bytes, messages of up to 1024 bytes."""

PUBLIC_2023 = Profile(
    name="2023",
    uid=UID_PUBLIC,
    get_vmid_request_lengths=frozenset({0}),
    get_vmid_reply="u32",
    message_size=240,
    queue_depth=8,
    packet_max=240,
    rm_packet_max=240,
)
"""The public stack of 2023 and Linux after it."""

PROFILES: Mapping[str, Profile] = MappingProxyType({profile.name: profile for profile in (V4, PUBLIC_2023)})
