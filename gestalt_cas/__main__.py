"""`python -m gestalt_cas` is the command `gestalt-cas`."""

from __future__ import annotations

import sys

from gestalt_cas.cli import main

if __name__ == "__main__":
    sys.exit(main())
