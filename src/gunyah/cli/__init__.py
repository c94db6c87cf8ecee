"""The `cli` room (ARCHITECTURE.md)."""
