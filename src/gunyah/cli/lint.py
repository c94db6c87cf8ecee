"""``gunyah lint``: what RM or the binding would refuse, one line each; exit status 1 if anything."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="FILE.dtb, FILE.dts or SYSTEM.toml")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Check every file."""
    from gunyah.host.lint import lint_file

    findings = {str(path): lint_file(path) for path in options.files}
    if options.json:
        print(
            json.dumps(
                {
                    "ok": not any(findings.values()),
                    "files": {
                        path: [{"where": f.where, "property": f.property, "sentence": f.sentence} for f in found]
                        for path, found in findings.items()
                    },
                }
            )
        )
    else:
        for path, found in findings.items():
            for finding in found:
                print(f"{path}: {finding}")
            if not found:
                print(f"{path}: nothing to say")
    return 1 if any(findings.values()) else 0
