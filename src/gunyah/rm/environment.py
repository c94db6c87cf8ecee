"""What the hypervisor tells the root VM at its start: runtime block, resource-manager block, CBOR map (boot.md 5).

Beyond the reference's keys, two of this system: ``profile`` (text, ABI generation of the primary VM) and
``console_loopback`` (boolean, the console policy of rm-behaviour.md 8.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gunyah.abi.bootenv import (
    RM_SIGNATURE,
    RM_SIZE,
    RUNTIME_AREA_SIZE,
    RUNTIME_SIGNATURE,
    RUNTIME_SIZE,
    ResourceManagerBlock,
    RuntimeBlock,
)
from gunyah.abi.cbor import CborError, Value, decode
from gunyah.abi.profile import PROFILES, PUBLIC_2023, Profile
from gunyah.guest.cpu import Cpu

__all__ = ["Environment", "EnvironmentInvalid", "read_environment"]


class EnvironmentInvalid(Exception):
    """RM cannot start: the environment is not what boot.md 5 describes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """RM's endowment. ``*_capid`` and vic, vic_hwirq are capabilities in RM's own space, ``*_base`` addresses."""

    heap_base: int
    heap_size: int
    timer_frequency: int
    gicd_address: int
    gicr_address: int
    partition: int
    cspace: int
    addrspace: int
    vcpu: int
    vic: int
    hwirqs: tuple[int, ...]
    free_ranges: tuple[tuple[int, int], ...]
    own_extent: int
    own_base: int
    own_size: int
    device_extent: int
    device_base: int
    device_size: int
    uart_extent: int
    uart_address: int
    gicd_base: int
    gicr_stride: int
    gicr_ranges: tuple[tuple[int, int], ...]
    boot_core: int
    usable_cores: int
    hlos_base: int
    hlos_size: int
    hlos_entry: int
    hlos_dt_base: int
    hlos_ramfs_base: int
    sve: bool
    profile: Profile
    console_loopback: bool


class _Keys:
    """Typed access to the map; a wrong or missing value names its key."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self.values = values

    def number(self, key: str, default: int | None = None) -> int:
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise EnvironmentInvalid(f"environment key {key!r} is {value!r}, not a number")
        return value

    def flag(self, key: str, default: bool) -> bool:
        return bool(self.values.get(key, default))

    def text(self, key: str, default: str) -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str):
            raise EnvironmentInvalid(f"environment key {key!r} is {value!r}, not text")
        return value

    def numbers(self, key: str) -> tuple[int, ...]:
        value = self.values.get(key)
        if isinstance(value, str | bytes) or not isinstance(value, Sequence):
            raise EnvironmentInvalid(f"environment key {key!r} is {value!r}, not an array")
        result: list[int] = []
        for item in value:
            if not isinstance(item, int):
                raise EnvironmentInvalid(f"environment key {key!r} holds {item!r}, not a number")
            result.append(item)
        return tuple(result)

    def pairs(self, key: str) -> tuple[tuple[int, int], ...]:
        value = self.values.get(key)
        if isinstance(value, str | bytes) or not isinstance(value, Sequence):
            raise EnvironmentInvalid(f"environment key {key!r} is {value!r}, not an array")
        result: list[tuple[int, int]] = []
        for item in value:
            match item:
                case [int() as first, int() as second]:
                    result.append((first, second))
                case _:
                    raise EnvironmentInvalid(f"environment key {key!r} holds {item!r}, not a pair of numbers")
        return tuple(result)


def read_environment(cpu: Cpu, address: int) -> Environment:
    """Parse the environment at IPA ``address`` (X0 at entry); raises EnvironmentInvalid."""
    runtime = RuntimeBlock.unpack(cpu.read(address, RUNTIME_SIZE))
    if runtime.signature != RUNTIME_SIGNATURE:
        raise EnvironmentInvalid(f"no runtime block at {address:#x}: signature {runtime.signature:#x}")
    at = address + runtime.rm_offset
    block = ResourceManagerBlock.unpack(cpu.read(at, RM_SIZE))
    if block.signature != RM_SIGNATURE:
        raise EnvironmentInvalid(f"no resource-manager block at {at:#x}: signature {block.signature:#x}")
    if block.payload_offset + block.payload_size > min(runtime.rm_size, RUNTIME_AREA_SIZE):
        raise EnvironmentInvalid(f"environment of {block.payload_size:#x} bytes does not fit in {runtime.rm_size:#x}")
    try:
        values = decode(cpu.read(at + block.payload_offset, block.payload_size))
    except CborError as error:
        raise EnvironmentInvalid(f"the environment is not CBOR: {error}") from error
    if not isinstance(values, Mapping):
        raise EnvironmentInvalid("the environment is not a map")
    keys = _Keys(values)
    profile = keys.text("profile", PUBLIC_2023.name)
    if profile not in PROFILES:
        raise EnvironmentInvalid(f"environment key 'profile' is {profile!r}, known are {', '.join(PROFILES)}")
    return Environment(
        heap_base=runtime.app_heap_ipa,
        heap_size=runtime.app_heap_size,
        timer_frequency=runtime.timer_freq,
        gicd_address=runtime.gicd_base,
        gicr_address=runtime.gicr_base,
        partition=keys.number("partition_capid"),
        cspace=keys.number("cspace_capid"),
        addrspace=keys.number("addrspace_capid"),
        vcpu=keys.number("vcpu_capid"),
        vic=keys.number("vic"),
        hwirqs=keys.numbers("vic_hwirq"),
        free_ranges=keys.pairs("free_ranges"),
        own_extent=keys.number("me_capid"),
        own_base=keys.number("me_ipa_base") - keys.number("ipa_offset", 0),
        own_size=keys.number("me_size"),
        device_extent=keys.number("device_me_capid"),
        device_base=keys.number("device_me_base"),
        device_size=keys.number("device_me_size"),
        uart_extent=keys.number("uart_me_capid"),
        uart_address=keys.number("uart_address"),
        gicd_base=keys.number("gicd_base"),
        gicr_stride=keys.number("gicr_stride"),
        gicr_ranges=keys.pairs("gicr_ranges"),
        boot_core=keys.number("boot_core"),
        usable_cores=keys.number("usable_cores"),
        hlos_base=keys.number("hlos_vm_base"),
        hlos_size=keys.number("hlos_vm_size"),
        hlos_entry=keys.number("entry_hlos"),
        hlos_dt_base=keys.number("hlos_dt_base"),
        hlos_ramfs_base=keys.number("hlos_ramfs_base", 0),
        sve=keys.flag("sve_supported", False),
        profile=PROFILES[profile],
        console_loopback=keys.flag("console_loopback", True),
    )
