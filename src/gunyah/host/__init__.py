"""The `host` room (ARCHITECTURE.md)."""
