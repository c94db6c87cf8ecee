"""Virtual interrupt controller and virtual PM words and limits (errors-and-types.md 10, objects.md 10 and 11)."""

from __future__ import annotations

from enum import IntEnum

__all__ = [
    "MAX_VCPUS",
    "MAX_VIRQS",
    "PPI_BASE",
    "PPI_PHYSICAL_TIMER",
    "PPI_PMU",
    "PPI_VIRTUAL_TIMER",
    "SPI_BASE",
    "SPI_LAST",
    "VIC_OPTIONS_RESERVED",
    "VIC_OPTION_DISABLE_DEFAULT_ADDR",
    "VIC_OPTION_MAX_MSIS_VALID",
    "VPM_OPTIONS_RESERVED",
    "VPM_OPTION_NO_AGGREGATION",
    "VpmState",
]

VIC_OPTION_MAX_MSIS_VALID = 1 << 0
"""The max_msis argument counts; otherwise it is taken for 0."""
VIC_OPTION_DISABLE_DEFAULT_ADDR = 1 << 1
"""Do not answer at the platform's default GIC addresses."""
VIC_OPTIONS_RESERVED = 0xFFFF_FFFF_FFFF_FFFC

MAX_VCPUS = 8
"""vCPU slots a VIC can have on this board."""
MAX_VIRQS = 988
"""Shared interrupt sources a VIC can have: INTIDs 32..1019."""

PPI_BASE = 16
SPI_BASE = 32
SPI_LAST = 1019
PPI_PMU = 23
PPI_VIRTUAL_TIMER = 27
PPI_PHYSICAL_TIMER = 30

VPM_OPTION_NO_AGGREGATION = 1 << 0
"""Keep the group out of power aggregation."""
VPM_OPTIONS_RESERVED = 0xFFFF_FFFF_FFFF_FFFE
"""Refused with -1."""


class VpmState(IntEnum):
    """State that ``vpm_group_get_state`` reports."""

    NO_STATE = 0
    RUNNING = 1
    CPUS_SUSPENDED = 2
    SYSTEM_SUSPENDED = 3
