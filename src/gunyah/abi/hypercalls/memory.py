"""Address space and memory extent calls (hypercalls.md 3.5 and 3.6)."""

from __future__ import annotations

from gunyah.abi.errors import Error
from gunyah.abi.hypercalls.model import (
    RES0,
    Argument,
    Capability,
    Hypercall,
    ReservedBits,
    Result,
    capid,
    configure,
    u32,
    u64,
)
from gunyah.abi.memory import (
    ACCESS_ATTRIBUTES_RESERVED,
    DONATE_OPTIONS_RESERVED,
    MAP_FLAGS_RESERVED,
    MAPPING_ATTRIBUTES_RESERVED,
    MODIFY_FLAGS_RESERVED,
)
from gunyah.abi.objects import AddrspaceRight, MemextentRight, ObjectType, PartitionRight, VicRight

__all__ = ["CALLS"]

_MAP_CAPABILITIES = (
    Capability("addrspace", ObjectType.ADDRSPACE, AddrspaceRight.MAP),
    Capability("memextent", ObjectType.MEMEXTENT, MemextentRight.MAP),
)
_MAP_FLAGS = (ReservedBits("map_flags", MAP_FLAGS_RESERVED),)
_MAP_ATTRIBUTES = ReservedBits("map_attrs", MAPPING_ATTRIBUTES_RESERVED)
_ACCESS_ATTRIBUTES = ReservedBits("access_attrs", ACCESS_ATTRIBUTES_RESERVED)

_ADDRSPACE = (
    Hypercall(
        number=0x2A,
        name="addrspace_attach_thread",
        arguments=(capid("addrspace"), capid("thread"), RES0),
        capabilities=(
            configure("thread", ObjectType.THREAD),
            Capability("addrspace", ObjectType.ADDRSPACE, AddrspaceRight.ATTACH),
        ),
        errors=(Error.OBJECT_STATE, Error.ARGUMENT_INVALID, Error.NOMEM),
        summary="bind a vCPU to its stage-2 address space",
        section="hypercalls.md 3.5",
    ),
    Hypercall(
        number=0x2B,
        name="addrspace_map",
        arguments=(
            capid("addrspace"),
            capid("memextent"),
            u64("vbase", "ipa"),
            u32("map_attrs", "flags"),
            u32("map_flags", "flags"),
            u64("offset", "bytes"),
            u64("size", "bytes"),
        ),
        capabilities=_MAP_CAPABILITIES,
        reserved_bits=(_MAP_ATTRIBUTES, *_MAP_FLAGS),
        errors=(
            Error.ARGUMENT_INVALID,
            Error.ARGUMENT_SIZE,
            Error.ARGUMENT_ALIGNMENT,
            Error.NOMEM,
            Error.ADDR_OVERFLOW,
            Error.ADDR_INVALID,
            Error.DENIED,
            Error.MEMEXTENT_MAPPINGS_FULL,
            Error.MEMEXTENT_TYPE,
        ),
        summary="map an extent, or part of a sparse one, at an IPA",
        section="hypercalls.md 3.5",
    ),
    Hypercall(
        number=0x2C,
        name="addrspace_unmap",
        arguments=(
            capid("addrspace"),
            capid("memextent"),
            u64("vbase", "ipa"),
            u32("map_flags", "flags"),
            u64("offset", "bytes"),
            u64("size", "bytes"),
        ),
        capabilities=_MAP_CAPABILITIES,
        reserved_bits=_MAP_FLAGS,
        errors=(
            Error.ARGUMENT_INVALID,
            Error.ARGUMENT_SIZE,
            Error.ARGUMENT_ALIGNMENT,
            Error.ADDR_INVALID,
            Error.DENIED,
            Error.MEMEXTENT_TYPE,
        ),
        summary="take back a mapping of an extent at an IPA",
        section="hypercalls.md 3.5",
    ),
    Hypercall(
        number=0x2D,
        name="addrspace_update_access",
        arguments=(
            capid("addrspace"),
            capid("memextent"),
            u64("vbase", "ipa"),
            u32("access_attrs", "flags"),
            u32("map_flags", "flags"),
            u64("offset", "bytes"),
            u64("size", "bytes"),
        ),
        capabilities=_MAP_CAPABILITIES,
        reserved_bits=(_ACCESS_ATTRIBUTES, *_MAP_FLAGS),
        errors=(
            Error.ARGUMENT_INVALID,
            Error.ARGUMENT_SIZE,
            Error.ARGUMENT_ALIGNMENT,
            Error.ADDR_INVALID,
            Error.DENIED,
            Error.MEMEXTENT_TYPE,
        ),
        summary="change the access of a mapping and keep its memory type",
        section="hypercalls.md 3.5",
    ),
    Hypercall(
        number=0x2E,
        name="addrspace_configure",
        arguments=(capid("addrspace"), Argument("vmid", "u16", "vmid"), RES0),
        capabilities=(configure("addrspace", ObjectType.ADDRSPACE),),
        errors=(Error.ARGUMENT_INVALID,),
        summary="set the VMID of an address space",
        section="hypercalls.md 3.5",
    ),
    Hypercall(
        number=0x2F,
        name="addrspace_attach_vdma",
        arguments=(capid("addrspace"), capid("dma_device"), u32("index", "index"), RES0),
        capabilities=(Capability("addrspace", ObjectType.ADDRSPACE, AddrspaceRight.ATTACH),),
        errors=(Error.CSPACE_WRONG_OBJECT_TYPE,),
        summary="attach a DMA port of a virtual device; no object has one",
        section="hypercalls.md 3.5",
    ),
    Hypercall(
        number=0x5A,
        name="addrspace_lookup",
        arguments=(capid("addrspace"), capid("memextent"), u64("vbase", "ipa"), u64("size", "bytes"), RES0),
        results=(
            Result("offset", "u64", "bytes"),
            Result("size", "u64", "bytes"),
            Result("map_attrs", "u32", "flags"),
        ),
        capabilities=(
            Capability("addrspace", ObjectType.ADDRSPACE, AddrspaceRight.LOOKUP),
            Capability("memextent", ObjectType.MEMEXTENT, MemextentRight.LOOKUP),
        ),
        errors=(
            Error.ARGUMENT_SIZE,
            Error.ARGUMENT_ALIGNMENT,
            Error.ADDR_OVERFLOW,
            Error.ADDR_INVALID,
            Error.MEMDB_NOT_OWNER,
        ),
        summary="find which contiguous part of an extent stands at an IPA",
        section="hypercalls.md 3.5",
    ),
    Hypercall(
        number=0x5B,
        name="addrspace_configure_info_area",
        arguments=(capid("addrspace"), capid("info_area_me"), u64("ipa", "ipa"), RES0),
        capabilities=(
            configure("addrspace", ObjectType.ADDRSPACE),
            Capability("info_area_me", ObjectType.MEMEXTENT, MemextentRight.ATTACH),
        ),
        errors=(Error.OBJECT_STATE, Error.ARGUMENT_INVALID, Error.ADDR_INVALID),
        summary="choose extent and IPA of the VM's information page",
        section="hypercalls.md 3.5",
    ),
    Hypercall(
        number=0x60,
        name="addrspace_configure_vmmio",
        arguments=(capid("addrspace"), u64("vbase", "ipa"), u64("size", "bytes"), u32("op", "enum"), RES0),
        capabilities=(Capability("addrspace", ObjectType.ADDRSPACE, AddrspaceRight.ADD_VMMIO_RANGE, active=False),),
        errors=(
            Error.OBJECT_STATE,
            Error.ARGUMENT_SIZE,
            Error.ADDR_OVERFLOW,
            Error.NORESOURCES,
            Error.BUSY,
            Error.NOMEM,
            Error.UNIMPLEMENTED,
        ),
        summary="declare or withdraw an IPA window whose faults go to the vCPU's proxy scheduler",
        section="hypercalls.md 3.5",
        note="the address space must be INIT or ACTIVE",
    ),
    Hypercall(
        number=0x62,
        name="addrspace_attach_vdevice",
        arguments=(
            capid("addrspace"),
            capid("vdevice"),
            u32("index", "index"),
            u64("vbase", "ipa"),
            u64("size", "bytes"),
            u64("flags", "flags"),
        ),
        capabilities=(
            Capability("addrspace", ObjectType.ADDRSPACE, AddrspaceRight.MAP),
            Capability("vdevice", ObjectType.VIC, VicRight.ATTACH_VDEVICE, when="the device is a VIC"),
        ),
        errors=(
            Error.CSPACE_WRONG_OBJECT_TYPE,
            Error.ARGUMENT_INVALID,
            Error.BUSY,
            Error.IDLE,
            Error.NOMEM,
        ),
        summary="place an interface of an emulated device at an IPA",
        section="hypercalls.md 3.5",
    ),
)

_MEMEXTENT = (
    Hypercall(
        number=0x30,
        name="memextent_modify",
        arguments=(capid("memextent"), u32("flags", "flags"), u64("offset", "bytes"), u64("size", "bytes")),
        capabilities=(Capability("memextent", ObjectType.MEMEXTENT, MemextentRight.MAP),),
        reserved_bits=(ReservedBits("flags", MODIFY_FLAGS_RESERVED),),
        errors=(
            Error.ARGUMENT_INVALID,
            Error.ARGUMENT_SIZE,
            Error.ARGUMENT_ALIGNMENT,
            Error.DENIED,
            Error.MEMEXTENT_TYPE,
        ),
        summary="unmap everywhere, zero, clean caches, or wait for other cores",
        section="hypercalls.md 3.6",
    ),
    Hypercall(
        number=0x31,
        name="memextent_configure",
        arguments=(
            capid("memextent"),
            u64("phys_base", "pa"),
            u64("size", "bytes"),
            u32("attributes", "flags"),
            RES0,
        ),
        capabilities=(configure("memextent", ObjectType.MEMEXTENT),),
        errors=(Error.ARGUMENT_INVALID, Error.ARGUMENT_ALIGNMENT),
        summary="make an extent a range of its partition's memory",
        section="hypercalls.md 3.6",
    ),
    Hypercall(
        number=0x32,
        name="memextent_configure_derive",
        arguments=(
            capid("memextent"),
            capid("parent_memextent"),
            u64("offset", "bytes"),
            u64("size", "bytes"),
            u32("attributes", "flags"),
            RES0,
        ),
        capabilities=(
            Capability("parent_memextent", ObjectType.MEMEXTENT, MemextentRight.DERIVE),
            configure("memextent", ObjectType.MEMEXTENT),
        ),
        errors=(Error.ARGUMENT_INVALID, Error.ADDR_INVALID, Error.ARGUMENT_ALIGNMENT),
        summary="make an extent a range of a parent extent",
        section="hypercalls.md 3.6",
    ),
    Hypercall(
        number=0x61,
        name="memextent_donate",
        arguments=(
            u32("options", "flags"),
            capid("from"),
            capid("to"),
            u64("offset", "bytes"),
            u64("size", "bytes"),
            RES0,
        ),
        capabilities=(
            Capability("to", ObjectType.MEMEXTENT, MemextentRight.DONATE, when="to child: first"),
            Capability("from", ObjectType.MEMEXTENT, MemextentRight.DONATE, when="to child that was derived: second"),
            Capability("from", ObjectType.PARTITION, PartitionRight.DONATE, when="to child of a partition: second"),
            Capability("from", ObjectType.MEMEXTENT, MemextentRight.DONATE, when="to parent: first"),
            Capability("to", ObjectType.MEMEXTENT, MemextentRight.DONATE, when="to parent extent: second"),
            Capability("to", ObjectType.PARTITION, PartitionRight.DONATE, when="to parent partition: second"),
            Capability("from", ObjectType.MEMEXTENT, MemextentRight.DONATE, when="to sibling: first"),
            Capability("to", ObjectType.MEMEXTENT, MemextentRight.DONATE, when="to sibling: second"),
        ),
        reserved_bits=(ReservedBits("options", DONATE_OPTIONS_RESERVED),),
        errors=(
            Error.ARGUMENT_INVALID,
            Error.ARGUMENT_SIZE,
            Error.ARGUMENT_ALIGNMENT,
            Error.MEMDB_NOT_OWNER,
            Error.MEMEXTENT_TYPE,
        ),
        summary="hand pages from an extent to its child, its parent or its sibling",
        section="hypercalls.md 3.6",
        note="the offset is relative to the child, or to the giver between siblings",
    ),
)

CALLS: tuple[Hypercall, ...] = (*_ADDRSPACE, *_MEMEXTENT)
