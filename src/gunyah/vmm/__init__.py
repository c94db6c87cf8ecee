"""The `vmm` room (ARCHITECTURE.md)."""
