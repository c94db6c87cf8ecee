"""The `rm` room (ARCHITECTURE.md)."""
