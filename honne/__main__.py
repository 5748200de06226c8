"""`python -m honne` is the same as `honne`."""

from __future__ import annotations

import sys

from honne.cli import main

if __name__ == "__main__":
    sys.exit(main())
