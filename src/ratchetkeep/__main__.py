"""``python -m ratchetkeep``."""

from ratchetkeep.cli import main

if __name__ == "__main__":
    main()
