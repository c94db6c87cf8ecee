"""Tests of the guest runtime."""
