"""Tests of the surfaces on the user's machine."""
