"""Hostile debuggers and hostile guests: whatever is sent, whatever tables a guest makes, the machine goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gunyah.host.gdb.conversation import Conversation
from gunyah.host.gdb.registers import REGISTERS

from .rig import AT, Machine

NUMBERS = st.one_of(
    st.sampled_from([0, 1, 3, 4, 8, 0x80, 0xFF, 0x1000, 0x3FFF_FFFF, (1 << 64) - 1, 1 << 63, 1 << 32]),
    st.sampled_from(sorted(AT.values())),
    st.integers(0, (1 << 70) - 1),
)
HEX = NUMBERS.map(lambda value: f"{value:x}".encode())
THREADS = st.sampled_from(b"p3.1 p3.2 p3.-1 pff.1 p-1.-1 p0.0 p9.1 -1 0 p3 zz".split())
TEXT = st.binary(max_size=20)
LETTERS = st.sampled_from(
    b"? g G p P m M x X Z0, Z1, Z2, Z3, Z4, z0, z1, z2, H Hg Hc T s c D D; vCont; vCont;c: vCont;s: vCont;r vCont;t: "
    b"vCtrlC vAttach; vStopped QNonStop: qXfer:threads:read:: qXfer:features:read:target.xml: qRcmd, qC qfThreadInfo "
    b"qThreadExtraInfo, QStartNoAckMode qXfer:osdata:read:processes:".split()
)
PARTS = st.one_of(HEX, THREADS, TEXT, st.sampled_from([b",", b":", b";", b"=", b"4", b"8", b"00000000"]))
PACKETS = st.builds(lambda letter, parts: letter + b"".join(parts), LETTERS, st.lists(PARTS, max_size=5))
ACTIONS = st.sampled_from(b"c s t r0,ffffffffffffffff".split())
SHAPED = st.one_of(
    PACKETS,
    st.builds(lambda a, n: b"m%s,%s" % (a, n), HEX, HEX),
    st.builds(lambda k, a, n: b"Z%d,%s,%s" % (k, a, n), st.integers(0, 5), HEX, HEX),
    st.builds(lambda a, t: b"vCont;%s:%s" % (a, t), ACTIONS, THREADS),
    st.builds(lambda n, v: b"P%s=%s" % (n, v), HEX, st.binary(max_size=17).map(lambda data: data.hex().encode())),
    TEXT,
)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine() as machine:
        # Something that goes on for as long as it is let, wherever a debugger lets it go on.
        machine.executor().context.registers.pc = AT["spin"]
        machine.hv.memory.write(AT["finish"], (0x1400_0000).to_bytes(4, "little") * 4)
        yield machine


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(packets=st.lists(SHAPED, max_size=12), run=st.booleans())
def test_any_packets_leave_a_machine_that_runs(machine: Machine, packets: list[bytes], run: bool) -> None:
    sent: list[bytes] = []
    conversation = Conversation(machine.hv, sent.append)
    before = machine.system.clock.ticks()
    for packet in packets:
        conversation.packet(packet)
        if run:
            machine.system.run(timeout=0.0001)
    conversation.close()
    assert not [remark for remark in machine.hv.remarks if remark.startswith("gdb:")]
    assert machine.system.stopped is None
    # Whatever was done to the guest's registers, it can be put back to work.
    machine.executor().power_on(AT["spin"], 0)
    machine.vcpu().wake()
    machine.system.run(timeout=0.0001)
    assert machine.system.clock.ticks() > before and machine.vcpu().runnable


TRANSLATION = ("SCTLR_EL1", "TTBR0_EL1", "TTBR1_EL1", "TCR_EL1")
SYSTEM = [number for number, register in enumerate(REGISTERS) if register.name in TRANSLATION]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.integers(0, (1 << 64) - 1), min_size=4, max_size=4),
    address=st.integers(0, (1 << 64) - 1),
    size=st.integers(1, 1 << 20),
    table=st.integers(0, 7),
)
def test_whatever_tables_a_guest_has_memory_is_bytes_or_error_14(
    machine: Machine, values: list[int], address: int, size: int, table: int
) -> None:
    sent: list[bytes] = []
    conversation = Conversation(machine.hv, sent.append)
    # Tables in its own memory, in nobody's, or that lead to themselves; the MMU is on.
    values[0] |= 1
    for number, value in zip(SYSTEM, values, strict=True):
        if REGISTERS[number].name.startswith("TTBR") and table:
            value = AT["_start"] + table * 0x1000
            machine.hv.memory.write(value, (value | 3).to_bytes(8, "little") * 512)
        conversation.packet(b"P%x=%s" % (number, value.to_bytes(8, "little").hex().encode()))
    sent.clear()
    conversation.packet(b"m%x,%x" % (address, size))
    conversation.packet(b"m%x,%x" % (address & 0xFFF_FFFF_FFFF, size))
    conversation.close()
    assert all(answer[1:2] in b"0123456789abcdef" or answer.startswith(b"$E14") for answer in sent)
    assert not [remark for remark in machine.hv.remarks if remark.startswith("gdb:")]
