"""The command `gestalt-cas`. Nothing is imported before a verb needs it, so `--help` is quick."""

from __future__ import annotations


def main() -> int:
    """Run the command line of this process; returns the exit code (`exits.py`)."""
    try:
        from gestalt_cas.cli.app import run_process

        return run_process()
    except KeyboardInterrupt:  # while modules are loaded, which is most of a short verb; verbs answer ctrl-C themselves
        return 130  # exits.INTERRUPTED, by value: that may be what was being loaded
