"""The demonstration guest on the whole system: hypervisor, RM and native code."""

from __future__ import annotations

import pytest

from gunyah.abi.profile import PROFILES
from gunyah.host.demo_guest import run, run_guest


@pytest.mark.parametrize("profile", ["2023", "v4"])
def test_a_native_guest_identifies_gunyah_talks_to_rm_sleeps_and_powers_off(profile: str) -> None:
    guest = run_guest(profile=profile, clock="virtual", seed=1)

    assert guest.ok, guest.output
    assert [int(word, 16) for word in guest.uid.split()] == list(PROFILES[profile].uid)
    assert (guest.version, guest.variant, guest.vmid) == (1, 0x51, 3)


def test_the_same_seed_gives_the_same_run_on_a_virtual_clock() -> None:
    assert run_guest(clock="virtual", seed=7) == run_guest(clock="virtual", seed=7)
    assert run_guest(clock="virtual", seed=7) != run_guest(clock="virtual", seed=8)


def test_the_guest_sleeps_as_long_as_it_asked_for() -> None:
    assert run_guest(clock="virtual", seed=1).slept_ms == pytest.approx(10, abs=0.01)


def test_a_report_of_the_demo_guest_on_the_real_clock_says_that_it_held() -> None:
    report = run()
    assert report["ok"], report
    assert (report["api"], report["variant"], report["vmid"]) == (1, 81, 3)
