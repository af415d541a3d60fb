"""``python -m mlc_widget.worker -f connection.json``."""

import gc

gc.disable()  # until `main` has begun: nothing that is imported is garbage

from mlc_widget.worker.app import main  # noqa: E402

main()
