"""What a memparcel request must satisfy before anything happens (rm-rpc.md 8.2, 8.4).

The order of the checks is the order in which RM answers errors.
"""

from __future__ import annotations

from collections.abc import Sequence

from gunyah.abi.errors import RmError
from gunyah.abi.rm import MEM_RIGHTS, AclEntry, AttributeEntry, MemAcceptFlag, MemAttribute, MemTrans, MemType
from gunyah.rm.errors import RmFailure
from gunyah.rm.memparcel import Member, Memparcel
from gunyah.rm.vm import Vm, VmTable

__all__ = ["acceptor", "apply_attributes", "check_sanitize", "members_of", "validate", "wants_contiguous"]

_WRITE, _EXECUTE = 2, 1
_RWX, _RW = 7, 6


def members_of(vms: VmTable, owner: Vm, trans_type: MemTrans, kind: MemType, acl: Sequence[AclEntry]) -> list[Member]:
    """The members an access list makes; owner inside for a share, outside otherwise."""
    most = _RW if kind is MemType.IO else _RWX
    attribute = MemAttribute.DEVICE if kind is MemType.IO else MemAttribute.NORMAL
    members: list[Member] = []
    seen: set[int] = set()
    for entry in acl:
        if entry.vmid in seen:
            raise RmFailure(RmError.ARGUMENT_INVALID, f"VM {entry.vmid} stands twice in the access list")
        seen.add(entry.vmid)
        if not vms.valid_in_acl(entry.vmid):
            raise RmFailure(RmError.ARGUMENT_INVALID, f"VMID {entry.vmid} cannot stand in an access list")
        if entry.rights not in MEM_RIGHTS:
            raise RmFailure(
                RmError.ARGUMENT_INVALID, f"rights {entry.rights:#x} of VM {entry.vmid} are not r, rx, rw or rwx"
            )
        if kind is MemType.IO and entry.rights & _EXECUTE:
            raise RmFailure(RmError.ARGUMENT_INVALID, f"VM {entry.vmid} asked for execution of IO memory")
        if trans_type is MemTrans.DONATE and entry.rights != most:
            raise RmFailure(
                RmError.DENIED,
                f"a donation gives full rights {most:#x}, VM {entry.vmid} would get {entry.rights:#x}",
            )
        members.append(Member(entry.vmid, entry.rights, attribute))
    if (owner.vmid in seen) != (trans_type is MemTrans.SHARE):
        word = "must" if trans_type is MemTrans.SHARE else "must not"
        raise RmFailure(
            RmError.ARGUMENT_INVALID,
            f"the owner, VM {owner.vmid}, {word} stand in the access list of a {trans_type.name}",
        )
    return members


def apply_attributes(
    kind: MemType, trans_type: MemTrans, members: list[Member], attributes: Sequence[AttributeEntry]
) -> None:
    """Give members the memory attributes of the attribute list."""
    default = MemAttribute.DEVICE if kind is MemType.IO else MemAttribute.NORMAL
    by_vmid = {member.vmid: member for member in members}
    seen: set[int] = set()
    for entry in attributes:
        if entry.vmid in seen:
            raise RmFailure(RmError.ARGUMENT_INVALID, f"VM {entry.vmid} stands twice in the attribute list")
        seen.add(entry.vmid)
        if entry.attribute not in MemAttribute._value2member_map_:
            raise RmFailure(RmError.ARGUMENT_INVALID, f"memory attribute {entry.attribute:#x} is unknown")
        if (kind is MemType.IO) != (entry.attribute == MemAttribute.DEVICE):
            raise RmFailure(
                RmError.ARGUMENT_INVALID,
                f"attribute {MemAttribute(entry.attribute).name} does not fit {kind.name} memory",
            )
        if trans_type is MemTrans.DONATE and entry.attribute != default:
            raise RmFailure(RmError.ARGUMENT_INVALID, "a donation keeps the default memory attribute")
        member = by_vmid.get(entry.vmid)
        if member is None:
            raise RmFailure(RmError.VMID_INVALID, f"VM {entry.vmid} has an attribute but no place in the access list")
        member.attribute = entry.attribute


def validate(
    parcel: Memparcel, flags: int, label: int, acl: Sequence[AclEntry], attributes: Sequence[AttributeEntry]
) -> None:
    """What the acceptor asked RM to compare: sanitized, label, access list and attributes."""
    if flags & MemAcceptFlag.VALIDATE_SANITIZED and not parcel.sanitize_create:
        raise RmFailure(RmError.VALIDATE_FAILED, f"{parcel} was not sanitized on creation")
    if flags & MemAcceptFlag.VALIDATE_LABEL and label != parcel.label:
        raise RmFailure(RmError.VALIDATE_FAILED, f"{parcel} has label {parcel.label:#x}, not {label:#x}")
    if flags & MemAcceptFlag.VALIDATE_ACL_ATTR:
        given = [(entry.vmid, entry.rights) for entry in acl]
        actual = [(member.vmid, member.rights) for member in parcel.members]
        if given != actual:
            raise RmFailure(RmError.VALIDATE_FAILED, f"{parcel} has access list {actual}, not {given}")
        if [(a.attribute, a.vmid) for a in attributes] != [(a.attribute, a.vmid) for a in parcel.attributes]:
            raise RmFailure(RmError.VALIDATE_FAILED, f"{parcel} has other memory attributes")


def acceptor(parcel: Memparcel, vm: Vm, flags: int, map_vmid: int) -> Member:
    """The member that accepts: in the list, not the owner, not mapped yet."""
    if flags & MemAcceptFlag.MAP_OTHER:
        raise RmFailure(RmError.DENIED, "mapping for another VM is not supported")
    if map_vmid:
        raise RmFailure(RmError.ARGUMENT_INVALID, f"map_vmid is {map_vmid} without the flag for it")
    member = parcel.member(vm.vmid)
    if member is None:
        raise RmFailure(RmError.VMID_INVALID, f"VM {vm.vmid} is not in the access list of {parcel}")
    if vm.vmid == parcel.owner:
        raise RmFailure(RmError.DENIED, f"VM {vm.vmid} owns {parcel}")
    if member.mapped:
        raise RmFailure(RmError.DENIED, f"VM {vm.vmid} has accepted {parcel} already")
    return member


def wants_contiguous(parcel: Memparcel, member: Member, flags: int) -> bool:
    """Whether one address is given for all pieces; must be the same in every call of one acceptance."""
    if not flags & MemAcceptFlag.MAP_CONTIGUOUS:
        if member.started and member.contiguous:
            raise RmFailure(RmError.ARGUMENT_INVALID, f"{parcel} has been given one contiguous address before")
        return False
    if parcel.type_code != MemType.NORMAL:
        raise RmFailure(RmError.ARGUMENT_INVALID, f"{parcel} is not of normal memory, which alone is mapped contiguous")
    if member.started and not member.contiguous:
        raise RmFailure(RmError.ARGUMENT_INVALID, f"{parcel} has been given separate addresses before")
    return True


def check_sanitize(parcel: Memparcel, rights: int, wanted: bool) -> bool:
    """Whether the memory is to be zeroed when it goes back; only who may write it may ask."""
    if wanted and parcel.mem_type is MemType.IO:
        raise RmFailure(RmError.ARGUMENT_INVALID, "IO memory cannot be sanitized")
    if wanted and not rights & _WRITE:
        raise RmFailure(RmError.ARGUMENT_INVALID, f"only a VM that may write {parcel} may have it sanitized")
    return wanted
