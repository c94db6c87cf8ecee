"""What a trapped system register of a native vCPU answers: a value, zero, or nothing at all."""

from __future__ import annotations

import pytest

from gunyah.hypervisor.id_registers import ID_REGISTERS, trapped
from gunyah.machine.engine import SYSTEM_REGISTERS, Encoding
from gunyah.machine.engine.decode import SysregAccess

ACTLR = SYSTEM_REGISTERS["ACTLR_EL1"]
AIDR = Encoding(3, 1, 0, 0, 7)
SET_AND_WAY = [Encoding(1, 0, 7, crm, 2) for crm in (6, 10, 14)]


def read(register: Encoding) -> int | None:
    return trapped(SysregAccess(register, 0, True))


def write(register: Encoding) -> int | None:
    return trapped(SysregAccess(register, 0, False))


@pytest.mark.parametrize("name", sorted(ID_REGISTERS))
def test_identification_registers_read_as_the_table_says_and_cannot_be_written(name: str) -> None:
    assert read(SYSTEM_REGISTERS[name]) == ID_REGISTERS[name]
    assert write(SYSTEM_REGISTERS[name]) is None


@pytest.mark.parametrize(("crm", "op2", "value"), [(7, 7, 0), (4, 7, 0), (8, 0, None), (15, 0, None)])
def test_the_rest_of_the_identification_space_reads_0(crm: int, op2: int, value: int | None) -> None:
    assert Encoding(3, 0, 0, crm, op2) not in {SYSTEM_REGISTERS[name] for name in ID_REGISTERS}
    assert read(Encoding(3, 0, 0, crm, op2)) == value


@pytest.mark.parametrize("register", [Encoding(2, 0, 0, 4, 7), Encoding(3, 2, 0, 4, 7), Encoding(3, 0, 1, 4, 7)])
def test_what_is_not_in_the_identification_space_is_undefined(register: Encoding) -> None:
    assert read(register) is None
    assert write(register) is None


def test_the_auxiliary_registers_are_zero_and_one_of_them_takes_writes() -> None:
    assert read(ACTLR) == 0
    assert write(ACTLR) == 0
    assert read(AIDR) == 0
    assert write(AIDR) is None


@pytest.mark.parametrize("register", SET_AND_WAY)
def test_cleaning_by_set_and_way_does_nothing(register: Encoding) -> None:
    assert write(register) == 0
    assert read(register) is None
