"""The environment's encoding: whatever is written is read back, and no bytes break the reader."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gunyah.abi.cbor import CborError, Value, decode, encode

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.text(max_size=40) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=20,
)


@given(_VALUES)
def test_what_is_encoded_is_decoded_to_the_same_value(value: Value) -> None:
    assert decode(encode(value)) == value


@given(st.binary(max_size=200))
def test_arbitrary_bytes_give_a_value_or_a_cbor_error(data: bytes) -> None:
    try:
        decode(data)
    except CborError:
        return


@pytest.mark.parametrize(
    ("encoded", "value"),
    [
        ("00", 0),
        ("1818", 24),
        ("1b00000000ffffffff", 0xFFFFFFFF),
        ("20", -1),
        ("f5", True),
        ("f4", False),
        ("826161a0", ["a", {}]),
        ("a16161820102", {"a": [1, 2]}),
    ],
)
def test_examples_of_the_standard(encoded: str, value: Value) -> None:
    assert decode(bytes.fromhex(encoded)) == value


@pytest.mark.parametrize(
    "encoded", ["", "9f01ff", "c100", "fb3ff0000000000000", "81" * 40 + "00", "9affffffff", "0000", "a10101"]
)
def test_what_is_outside_the_subset_is_refused(encoded: str) -> None:
    with pytest.raises(CborError):
        decode(bytes.fromhex(encoded))


def test_an_integer_wider_than_64_bits_is_refused() -> None:
    with pytest.raises(CborError, match="64 bits"):
        encode(1 << 64)
