"""The `linux` room (ARCHITECTURE.md)."""
