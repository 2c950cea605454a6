"""`python -m coophash`: the command line."""

from __future__ import annotations

from coophash.cli import main

if __name__ == "__main__":
    main()
