"""The v4 drivers' conversation with RM, byte for byte, by native code with its MMU on (linux-clients.md 5)."""

from __future__ import annotations

import struct

from gunyah.native import NativePrimary
from gunyah.system import System
from gunyah.vmm.guests import guest_image

VMID = 3
GET_VMID, OPEN, CLOSE, WRITE, CHARS = 0x5600_0024, 0x5600_0081, 0x5600_0082, 0x5600_0083, 0x5610_0080
REQUEST, REPLY, NOTIFICATION, CONTINUATION = 1, 2, 3, 0


def talk(profile: str, until: str = "end") -> list[tuple[str, bytes]]:
    primary = NativePrimary(kernel=guest_image("talk"))
    with System(primary, profile=profile, clock="virtual", seed=1, memory=64 << 20) as system:
        system.run(until=lambda: until.encode() in primary.output, timeout=10)
    lines = primary.output.decode().splitlines()
    return [(line[0], bytes.fromhex(line[2:])) for line in lines if line[:2] in ("> ", "< ")] + [
        ("end", line.encode()) for line in lines if line[:2] not in ("> ", "< ")
    ]


def message(kind: int, sequence: int, number: int, payload: bytes = b"", fragments: int = 0) -> bytes:
    return struct.pack("<BBHI", 0x21, kind | fragments << 2, sequence, number) + payload


def console(vmid: int, data: bytes) -> bytes:
    return struct.pack("<HH", vmid, len(data)) + data


OK = bytes(4)
HELLO = b"hello from ttyGH0, 28 bytes\n"
ANSWER = b"answer\n"
BURST = b"abcd" * 250


def test_the_conversation_of_the_series_goes_as_its_drivers_expect() -> None:
    heard = talk("v4")

    assert heard[:12] == [
        (">", message(REQUEST, 0, GET_VMID, bytes(4))),
        ("<", message(REPLY, 0, GET_VMID, OK + struct.pack("<H", VMID))),
        (">", message(REQUEST, 1, OPEN, console(0, b""))),
        ("<", message(REPLY, 1, OPEN, OK)),
        (">", message(REQUEST, 2, OPEN, console(VMID, b""))),
        ("<", message(REPLY, 2, OPEN, OK)),
        (">", message(REQUEST, 3, WRITE, console(0, HELLO))),
        ("<", message(NOTIFICATION, 0, CHARS, console(VMID, HELLO))),
        ("<", message(REPLY, 3, WRITE, OK)),
        (">", message(REQUEST, 4, WRITE, console(VMID, ANSWER))),
        ("<", message(NOTIFICATION, 1, CHARS, console(0, ANSWER))),
        ("<", message(REPLY, 4, WRITE, OK)),
    ]
    assert heard[-4:] == [
        ("<", message(REPLY, 5, WRITE, OK)),
        (">", message(REQUEST, 6, CLOSE, console(VMID, b""))),
        ("<", message(REPLY, 6, CLOSE, OK)),
        ("end", b"end"),
    ]


def test_a_burst_of_a_thousand_bytes_comes_back_whole() -> None:
    heard = talk("v4")
    assert heard[12] == (">", message(REQUEST, 5, WRITE, console(0, BURST)))
    burst = [data for _, data in heard[13:-4]]
    fragments = len(burst) - 1
    assert burst[0][1] == NOTIFICATION | fragments << 2
    assert all(data[1] == CONTINUATION | fragments << 2 for data in burst[1:])
    assert b"".join(data[8:] for data in burst) == console(VMID, BURST)


def test_the_later_generation_refuses_what_only_the_first_one_sends() -> None:
    # It drops the long message without a word too, and the guest would wait for an answer for ever.
    heard = talk("2023", until="> 210105")
    assert heard[1] == ("<", message(REPLY, 0, GET_VMID, struct.pack("<I", 4)))
    assert heard[3] == ("<", message(REPLY, 1, OPEN, OK))
