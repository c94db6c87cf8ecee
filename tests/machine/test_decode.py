"""Decoding loads and stores: what the decoder says an instruction does is what the engine does when it runs it."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gunyah.machine.engine.decode import (
    SysregAccess,
    access_from_syndrome,
    complete_load,
    decode_instruction,
    effective_address,
    extend,
    has_writeback,
    store_value,
)  # fmt: skip
from gunyah.machine.engine.registers import SYSTEM_REGISTERS

from .rig import DATA, Rig

INSTRUCTIONS = (
    0x39400C02,  # ldrb w2, [x0, #3]
    0x39C00002,  # ldrsb w2, [x0]
    0x39800002,  # ldrsb x2, [x0]
    0x79400402,  # ldrh w2, [x0, #2]
    0x79C00002,  # ldrsh w2, [x0]
    0x79800C02,  # ldrsh x2, [x0, #6]
    0xB9400402,  # ldr w2, [x0, #4]
    0xB9800002,  # ldrsw x2, [x0]
    0xF9400402,  # ldr x2, [x0, #8]
    0xF85FB002,  # ldur x2, [x0, #-5]
    0xB8404802,  # ldtr w2, [x0, #4]
    0xF8616802,  # ldr x2, [x0, x1]
    0xB8615802,  # ldr w2, [x0, w1, uxtw #2]
    0xB861C802,  # ldr w2, [x0, w1, sxtw]
    0xF8617802,  # ldr x2, [x0, x1, lsl #3]
    0x38216803,  # strb w3, [x0, x1]
    0xB8808402,  # ldrsw x2, [x0], #8
    0xF85F0C02,  # ldr x2, [x0, #-16]!
    0x385FF402,  # ldrb w2, [x0], #-1
    0xF840841F,  # ldr xzr, [x0], #8
    0x39000403,  # strb w3, [x0, #1]
    0x79000403,  # strh w3, [x0, #2]
    0xB9000403,  # str w3, [x0, #4]
    0xF9000403,  # str x3, [x0, #8]
    0xB900001F,  # str wzr, [x0]
    0xF8018403,  # str x3, [x0], #24
    0xB81FCC03,  # str w3, [x0, #-4]!
    0xF81F7003,  # stur x3, [x0, #-9]
    0xF8000803,  # sttr x3, [x0]
    0x29400C02,  # ldp w2, w3, [x0]
    0xA9410C02,  # ldp x2, x3, [x0, #16]
    0xA8FF0C02,  # ldp x2, x3, [x0], #-16
    0xA9C20C02,  # ldp x2, x3, [x0, #32]!
    0x69410C02,  # ldpsw x2, x3, [x0, #8]
    0xA8410C02,  # ldnp x2, x3, [x0, #16]
    0x29001003,  # stp w3, w4, [x0]
    0xA9017C03,  # stp x3, xzr, [x0, #16]
    0xA9BE1003,  # stp x3, x4, [x0, #-32]!
    0xA8811003,  # stp x3, x4, [x0], #16
    0xA8001003,  # stnp x3, x4, [x0]
    0x2D410C02,  # ldp s2, s3, [x0, #8]
    0x6CC10C02,  # ldp d2, d3, [x0], #16
    0xADFF0C02,  # ldp q2, q3, [x0, #-32]!
    0x2D001003,  # stp s3, s4, [x0]
    0x6D011003,  # stp d3, d4, [x0, #16]
    0xAC811003,  # stp q3, q4, [x0], #32
    0x3D400002,  # ldr b2, [x0]
    0x7D400402,  # ldr h2, [x0, #2]
    0xBD400402,  # ldr s2, [x0, #4]
    0xFC408402,  # ldr d2, [x0], #8
    0x3CC10C02,  # ldr q2, [x0, #16]!
    0x3CDFD002,  # ldur q2, [x0, #-3]
    0x3CE16802,  # ldr q2, [x0, x1]
    0x3D000003,  # str b3, [x0]
    0x7C002403,  # str h3, [x0], #2
    0xBD000403,  # str s3, [x0, #4]
    0xFC008C03,  # str d3, [x0, #8]!
    0x3D800403,  # str q3, [x0, #16]
    0x3C9FD003,  # stur q3, [x0, #-3]
    0xC8DFFC02,  # ldar x2, [x0]
    0x08DFFC02,  # ldarb w2, [x0]
    0x48DFFC02,  # ldarh w2, [x0]
    0x889FFC03,  # stlr w3, [x0]
    0x089FFC03,  # stlrb w3, [x0]
    0xC85F7C02,  # ldxr x2, [x0]
    0x085FFC02,  # ldaxrb w2, [x0]
    0xC87F0C02,  # ldxp x2, x3, [x0]
    0x887F8C02,  # ldaxp w2, w3, [x0]
    0x4C407002,  # ld1 {v2.16b}, [x0]
    0x0C407002,  # ld1 {v2.8b}, [x0]
    0x4CDFA802,  # ld1 {v2.4s, v3.4s}, [x0], #32
    0x4C402C02,  # ld1 {v2.2d, v3.2d, v4.2d, v5.2d}, [x0]
    0x4CC16402,  # ld1 {v2.8h, v3.8h, v4.8h}, [x0], x1
    0x0C408002,  # ld2 {v2.8b, v3.8b}, [x0]
    0x0CDF8402,  # ld2 {v2.4h, v3.4h}, [x0], #16
    0x4C404802,  # ld3 {v2.4s, v3.4s, v4.4s}, [x0]
    0x4CDF001F,  # ld4 {v31.16b, v0.16b, v1.16b, v2.16b}, [x0], #64
    0x4C007803,  # st1 {v3.4s}, [x0]
    0x0C9FA803,  # st1 {v3.2s, v4.2s}, [x0], #16
    0x4C008003,  # st2 {v3.16b, v4.16b}, [x0]
    0x4C814403,  # st3 {v3.8h, v4.8h, v5.8h}, [x0], x1
    0x0C000803,  # st4 {v3.2s, v4.2s, v5.2s, v6.2s}, [x0]
    0x0D400C02,  # ld1 {v2.b}[3], [x0]
    0x4DDF1402,  # ld1 {v2.b}[13], [x0], #1
    0x4D404802,  # ld1 {v2.h}[5], [x0]
    0x4DC18002,  # ld1 {v2.s}[2], [x0], x1
    0x4D408402,  # ld1 {v2.d}[1], [x0]
    0x0D609002,  # ld2 {v2.s, v3.s}[1], [x0]
    0x4DDFA402,  # ld3 {v2.d, v3.d, v4.d}[1], [x0], #24
    0x4D602402,  # ld4 {v2.b, v3.b, v4.b, v5.b}[9], [x0]
    0x0D001C03,  # st1 {v3.b}[7], [x0]
    0x0D9F8403,  # st1 {v3.d}[0], [x0], #8
    0x4D205003,  # st2 {v3.h, v4.h}[6], [x0]
    0x4D20B003,  # st4 {v3.s, v4.s, v5.s, v6.s}[3], [x0]
    0x4D40C002,  # ld1r {v2.16b}, [x0]
    0x0DDFC402,  # ld1r {v2.4h}, [x0], #2
    0x4D60CC02,  # ld2r {v2.2d, v3.2d}, [x0]
    0x0DC1E002,  # ld3r {v2.8b, v3.8b, v4.8b}, [x0], x1
    0x4D60E802,  # ld4r {v2.4s, v3.4s, v4.4s, v5.4s}, [x0]
)

OTHERS = (
    0xF9800000,  # prfm pldl1keep, [x0]
    0xF89FD000,  # prfum pldl1keep, [x0, #-3]
    0xF8210002,  # ldadd x1, x2, [x0]
    0xB8218002,  # swp w1, w2, [x0]
    0xC8A17C02,  # cas x1, x2, [x0]
    0x48227C04,  # casp x2, x3, x4, x5, [x0]
    0x58000042,  # ldr x2, .+8
    0x91000400,  # add x0, x0, #1
    0x14000000,  # b .
    0xD50B7420,  # dc zva, x0
    0x00000000,  # padding
    0xD50342DF,  # msr daifset, #2
)

FINISH = 0xD4001FE2  # hvc #0xff


@pytest.fixture(scope="module")
def rig() -> Rig:
    return Rig()


@pytest.mark.parametrize("word", INSTRUCTIONS, ids=hex)
def test_decoded_instruction_does_what_the_engine_does(rig: Rig, word: int) -> None:
    memory = bytes(n * 37 % 251 for n in range(256))
    base = DATA + 128

    def prepare(program: tuple[int, ...]) -> None:
        rig.memory.write(DATA, memory)
        rig.start(program, base, 24)
        for n in range(2, 31):
            rig.x[n] = 0x8182_8384_8586_8788 + 0x0101_0101_0101_0101 * n
        for n in range(32):
            rig.registers.set_vector(n, int.from_bytes(bytes(n * 16 + k & 0xFF for k in range(16)), "little"))

    def state() -> tuple[list[int], list[int], bytes]:
        vectors = [rig.registers.vector(n) for n in range(32)]
        return list(rig.x), vectors, rig.memory.read(DATA, 256)

    prepare((word, FINISH))
    rig.go_on()
    natively = state()

    prepare((word, FINISH))
    access = decode_instruction(word)
    assert access is not None and access.base == 0
    pc = rig.registers.pc
    access.perform(
        rig.registers,
        effective_address(word, rig.registers),
        lambda address, size: int.from_bytes(rig.memory.read(address, size), "little"),
        lambda address, size, value: rig.memory.write(address, value.to_bytes(size, "little")),
    )
    assert state() == natively
    assert rig.registers.pc == pc + 4
    assert has_writeback(word) == (word >> 27 & 7 == 7 and access.writeback is not None)


@pytest.mark.parametrize("word", OTHERS, ids=hex)
def test_other_instructions_are_not_taken_for_loads_and_stores(word: int) -> None:
    assert decode_instruction(word) is None


@settings(max_examples=500)
@given(st.integers(0, 0xFFFF_FFFF))
def test_decoder_survives_any_word(word: int) -> None:
    access = decode_instruction(word)
    if access is not None:
        assert 1 <= access.size <= 64
        assert all(transfer.size in (1, 2, 4, 8, 16) for transfer in access.transfers)


def test_store_exclusive_reports_success() -> None:
    program = (
        0xC8077C03,  # stxr w7, x3, [x0]
    )
    rig = Rig()
    rig.start((program[0], FINISH), DATA)
    rig.x[7] = 99
    access = decode_instruction(program[0])
    assert access is not None and not access.is_load
    written: list[tuple[int, int]] = []
    access.perform(rig.registers, DATA, lambda a, s: 0, lambda address, size, value: written.append((address, size)))
    assert written == [(DATA, 8)] and rig.x[7] == 0


@example(1 << 63, 8, True, False)
@given(st.integers(0, (1 << 64) - 1), st.sampled_from([1, 2, 4, 8]), st.booleans(), st.booleans())
def test_extension_keeps_the_value_and_fits_the_register(value: int, size: int, sign: bool, wide: bool) -> None:
    result = extend(value, size, sign, wide)
    assert result & (1 << 8 * size) - 1 == value & (1 << 8 * size) - 1
    assert 0 <= result < 1 << (64 if wide or size == 8 else 32)


def test_syndrome_of_a_single_access_names_it() -> None:
    rig = Rig()
    esr = 0x9000_0000 | 1 << 24 | 1 << 22 | 1 << 21 | 7 << 16 | 1 << 15 | 5
    access = access_from_syndrome(esr)
    assert access is not None and access.is_load
    assert access.transfers[0][:3] == (0, 2, 7) and access.transfers[0].sign_extend
    rig.registers.pc = 0x1000
    complete_load(rig.registers, esr, 0xFFFE)
    assert rig.x[7] == 0xFFFF_FFFF_FFFF_FFFE and rig.registers.pc == 0x1004
    assert store_value(rig.registers, esr) == 0xFFFE
    assert access_from_syndrome(esr & ~(1 << 24)) is None


def test_syndrome_of_a_register_access_round_trips() -> None:
    for name, encoding in SYSTEM_REGISTERS.items():
        for rt, read in ((0, 1), (31, 0)):
            access = SysregAccess.from_iss(encoding.iss | rt << 5 | read)
            assert access == (encoding, rt, bool(read)), name
