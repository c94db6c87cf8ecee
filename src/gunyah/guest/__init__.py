"""The `guest` room (ARCHITECTURE.md)."""
