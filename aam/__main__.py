"""``python -m aam``."""

from aam.cli import main

if __name__ == "__main__":
    main()
