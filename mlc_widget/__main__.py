"""``python -m mlc_widget`` is the command ``mlc_widget``."""

import sys

from mlc_widget.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
