"""``python -m gunyah``: the same as the command."""

from gunyah.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
