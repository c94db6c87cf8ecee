"""Guests for systems on the host, as words of AArch64 code, position independent."""

from __future__ import annotations

import struct

ECHO = struct.pack(
    "<10I",
    0xD2A12001,  # movz x1, #0x900, lsl #16      the UART
    0xB9401822,  # ldr  w2, [x1, #0x18]          flags
    0x3727FFE2,  # tbnz w2, #4, back             nothing received
    0xB9400023,  # ldr  w3, [x1]
    0xB9000023,  # str  w3, [x1]
    0x7101C47F,  # cmp  w3, #'q'
    0x54FFFF61,  # b.ne back to the flags
    0x52800100,  # mov  w0, #8
    0x72B08000,  # movk w0, #0x8400, lsl #16     SYSTEM_OFF
    0xD4000002,  # hvc  #0
)
"""Sends back what it receives; ``q`` switches it off."""

REBOOT = struct.pack(
    "<5I",
    0xD2A12001,  # movz x1, #0x900, lsl #16
    0x52800DC3,  # mov  w3, #'n'
    0xB9000023,  # str  w3, [x1]
    0x52800120,  # mov  w0, #9
    0x72B08000,  # movk w0, #0x8400, lsl #16     SYSTEM_RESET
) + struct.pack("<I", 0xD4000002)
"""Says ``n`` and asks for a reset."""

IDLE = struct.pack("<2I", 0xD503207F, 0x17FFFFFF)
"""Waits for interrupts for ever."""
