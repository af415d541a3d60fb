"""``python -m mlc_widget.worker -f connection.json``."""

from mlc_widget.worker.app import main

main()
