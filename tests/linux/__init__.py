"""Tests of the Linux driver stack."""
