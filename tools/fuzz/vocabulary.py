"""Numbers worth trying, by what the hypercall table says an argument means, and by its name where that says more."""

from __future__ import annotations

from collections.abc import Mapping

from gunyah.abi import smccc
from gunyah.hypervisor.vgic_cpu_interface import REGISTERS as ICC_REGISTERS
from gunyah.machine import board

__all__ = [
    "ARGUMENTS",
    "CLAY",
    "CLAY_IPA",
    "CLAY_PAGES",
    "DEVICE_ADDRESSES",
    "FUNCTIONS",
    "MEANINGS",
    "READ_REGISTERS",
    "VIRTIO_IPA",
    "WRITE_REGISTERS",
]

U64 = (1 << 64) - 1
PAGE = 4096

CLAY = 0x6000_0000
"""PA of the memory from which a hostile root VM makes its VMs."""
CLAY_PAGES = 512
CLAY_IPA = 0x5000_0000
"""Where it maps that memory in them."""

VIRTIO_IPA = 0x5100_0000
"""Where such a VM may find a virtio device's registers."""

_CORNERS = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x100, 0xFFF, 0x1000, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 63, U64)
_CLAY_IPAS = tuple(CLAY_IPA + PAGE * page for page in range(CLAY_PAGES))
_EDGES = (1 << 36, (1 << 36) - PAGE, 1 << 44, 1 << 48, 1 << 52, U64 - PAGE + 1, U64)

MEANINGS: Mapping[str, tuple[int, ...]] = {
    "": (*_CORNERS, *_CLAY_IPAS[:8]),
    "ipa": (
        *_CLAY_IPAS,
        *(0x2_0000_0000 + 0x20_0000 * slot for slot in range(16)),
        *(board.GICD.base, board.GICR.base, board.UART.base, board.HLOS.base, board.ROOT_VM.base, 0, 8),
        *_EDGES,
    ),
    "pa": (
        *(CLAY + PAGE * page for page in range(64)),
        *(0x7000_0000, 0x7020_0000, 0x9000_0000, board.HLOS.base, board.ROOT_VM.base, board.HYPERVISOR_IMAGE),
        *(board.ROOT_PARTITION_HEAP.base, board.UART.base, 0xC000_0000, CLAY + 8, *_EDGES),
    ),
    "va": (
        *(board.ROOT_VM.base + 0x8000 + 8 * step for step in range(8)),
        *(board.ROOT_VM.base + 0x8FF8, board.HLOS.base + 0x100_0FF0, board.HLOS.base + 0x200_0000),
        *(0, board.UART.base, 0x2_0000_0000, *_CLAY_IPAS[:4], *_EDGES),
    ),
    "bytes": (0, 1, 4, 8, 12, 16, 20, 24, 128, 240, 241, 1023, 1024, 0x1000, 0x1000, 0x2000, 0x3000, 0x4000, 0x8000)
    + (0x1_0000, 0x4_0000, 0x20_0000, 1 << 30, 1 << 36, U64 - PAGE + 1, U64, 9, 0x1001),
    "flags": (*_CORNERS, 4, 5, 6, 7, 8, 16, 1 << 33, 0x8000_0001, 0x5555_5555),
    "index": (*range(10), 16, 31, 32, 63, 64, (1 << 32) - 1),
    "count": (*range(10), 16, 17, 32, 62, 63, 64, 128, 255, 256, 988, 989, 14260, 14261, (1 << 32) - 2, (1 << 32) - 1),
    "virq": (*range(32, 44), 0, 15, 16, 23, 27, 30, 31, 95, 96, 960, 1019, 1020, 1023, 8192, (1 << 32) - 1),
    "vmid": (*range(40), 128, 254, 255, 256, 0xFFFF),
    "cpu": (*range(9), 0xFFFF, 0xFFFF),
    "enum": (0, 1, 2, 3, 4, 16, 17, 18, 255, (1 << 32) - 1),
    "ns": (100_000, 99_999, 1_000_000, 5_000_000, 100_000_000, 100_000_001, 0, U64),
    "microseconds": ((1 << 32) - 1, (1 << 32) - 1, (1 << 32) - 1, 0, 1),
    "priority": (*range(0, 64, 4), 32, 62, 63, 64, (1 << 32) - 1),
    "rights": (*_CORNERS, 7, 0x1F, 0x8000_0001, 0x3FF),
}
"""The meanings are those of ``gunyah.abi.hypercalls.Argument``."""

_MAP_FLAGS = (0, 0, 0, 1, 1, 1 << 31, 1 << 31 | 1, 2)

ARGUMENTS: Mapping[str, tuple[int, ...]] = {
    "map_attrs": (
        0xF_0077,
        0xF_0066,
        0xF_0044,
        0xF_0055,
        0xF_0077,
        0x5_0066,
        0x1_0066,
        0x0_0044,
        0xF_0033,
        0xF_0074,
        8,
    ),
    "access_attrs": (0x77, 0x66, 0x44, 0x55, 0x00, 0x11, 0x74, 0x33, 0x100),
    "map_flags": _MAP_FLAGS,
    "attributes": (
        7,
        7,
        6,
        4,
        5,
        0x1_0007,
        0x1_0007,
        0x1_0006,
        0x1_0004,
        0x107,
        0x207,
        0x307,
        3,
        0,
        1 << 31 | 7,
        0x2_0007,
    ),
    "options": (0, 0, 1, 1, 2, 2, 1 << 31, 1 << 31 | 1, 3, 0x100),
    "create_info": (
        240 << 16 | 8,
        8 << 16 | 1,
        16 << 16 | 4,
        1023 << 16 | 255,
        0,
        8,
        8 << 16,
        1024 << 16 | 8,
        8 << 16 | 256,
    ),
    "vcpu_options": (0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 0x200, 0x200, 0x201, 1 << 10, 1 << 62),
    "vic_options": (0, 0, 2, 2, 1, 3, 4),
    "send_flags": (0, 1, 2),
    "control": (0, 0, 1, 1, 1, 2, 3, 0x1_0000, 1 << 31, 1 << 31 | 1),
    "op": (0, 0, 0, 1, 2),
    "register_set": (0, 0, 1, 2, 3),
    "sel": (0, 1, 2, 3, 15, 16, 17, 18, 0xFF),
    "subsel": (0, 1, 31, 32, 63, 64),
    "vqs_num": (1, 2, 4, 16, 17, 0),
    "max_vcpus": (1, 2, 4, 8, 9, 0),
    "max_virqs": (0, 1, 8, 64, 988, 989),
    "max_caps": (1, 8, 64, 128, 1000, 14261, 0),
    "max_msis": (0, 0, 0, 1),
    "num_bytes": (4, 8, 12, 16, 3, 0, 17),
    "mask": (7, 0xFF, 0xFF00_FFFF_FF00, U64, 0x0303, 0),
    "memextent_modify.flags": (0, 1 << 31, 1 << 31 | 1, 1 << 31 | 2, 1 << 31 | 3, 255, 1 << 31 | 255, 1, 1 << 8),
    "vcpu_poweron.flags": (0, 0, 0, 1, 2, 3, 4),
    "vcpu_poweroff.flags": (0, 1, 2),
    "vpm_group_configure.flags": (0, 1, 2),
    "virtio_mmio_configure.flags": (0, 0, 64, 64, 65),
    "addrspace_attach_vdevice.flags": (0, 0, 1, 3, 4),
    "device_type": (18, 18, 0, 2),
    "entry_point": (*_CLAY_IPAS, 0, 8),
    "offset": (0, 0, 0, 0, PAGE, 2 * PAGE, 3 * PAGE, 8, 1 << 36, U64 - PAGE + 1),
    "memextent_configure.size": (PAGE, PAGE, 2 * PAGE, 4 * PAGE, 8 * PAGE, 0, 8, 1 << 30, U64 - PAGE + 1),
    "memextent_configure_derive.size": (PAGE, PAGE, 2 * PAGE, 4 * PAGE, 0, 8, 1 << 30, U64 - PAGE + 1),
    "memextent_donate.size": (PAGE, PAGE, 2 * PAGE, 4 * PAGE, 0, 8, 1 << 30),
    "addrspace_attach_vdevice.size": (0x1_0000, 0x2_0000, PAGE, 0, U64),
    "virq_type": (0, 1, 1, 2),
    "timeslice": (100_000, 100_000_000, 5_000_000, 99_999, 1 << 40),
    **{f"aff{level}_shift": (0, 8, 3, 4, 31, 32) for level in range(4)},
}

READ_REGISTERS = (
    *(name for name in ICC_REGISTERS),
    *("CNTV_CTL_EL0", "CNTV_CVAL_EL0", "CNTV_TVAL_EL0", "CNTP_CTL_EL0", "CNTP_CVAL_EL0", "CNTP_TVAL_EL0"),
    *("CNTVCT_EL0", "CNTPCT_EL0", "CNTFRQ_EL0", "MPIDR_EL1", "MIDR_EL1", "SCTLR_EL1", "ACTLR_EL1", "CURRENTEL"),
    *("VBAR_EL1", "HCR_EL2", "ICC_SRE_EL2", "ICC_AP1R1_EL1", ""),
)
WRITE_REGISTERS = READ_REGISTERS

FUNCTIONS = tuple(
    value
    for name, value in vars(smccc).items()
    if isinstance(value, int) and value >= smccc.FAST and not name.startswith(("FAST", "MUST"))
)
"""SMCCC function ids that somebody could take for one."""

DEVICE_ADDRESSES = (
    board.GICD.base,
    board.GICD.base + 0x100,
    board.GICD.base + 0x200,
    board.GICD.base + 0x300,
    board.GICD.base + 0x400,
    board.GICD.base + 0xC00,
    board.GICD.base + 0x6100,
    board.GICD.base + 0xFF00,
    *(board.GICR.base + board.GICR_STRIDE * index + frame for index in (0, 1, 7) for frame in (0, 0x1_0000, 0x1_0400)),
    board.UART.base,
    board.RTC.base,
    board.VIRTIO_MMIO.base,
    *_CLAY_IPAS[:6],
    *(VIRTIO_IPA,) * 8,
    0x1000_0000,
)
"""Where a load or store may find a device; a page of offsets follows each."""
