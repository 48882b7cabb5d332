"""The command line: ``python -m optimlab COMMAND``, the same as ``optimlab COMMAND``."""

import sys

from optimlab.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
