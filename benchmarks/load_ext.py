"""What ``%load_ext mlc_widget`` adds to ipywidgets' own import, in fresh interpreters in turn.

python benchmarks/load_ext.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from _stats import shown

_MEASURED = """
import time
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
started = time.perf_counter()
import ipywidgets
between = time.perf_counter()
shell.run_line_magic("load_ext", "mlc_widget")
print(between - started, time.perf_counter() - between)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    both = []
    for _ in range(rounds + 1):
        ran = subprocess.run([sys.executable, "-c", _MEASURED], capture_output=True, check=True)
        both.append([float(s) * 1e3 for s in ran.stdout.split()])
    widgets, ours = zip(*both[1:], strict=True)  # the first warms the files
    print(f"in {rounds} fresh interpreters")
    print(f"  import ipywidgets             {shown(widgets, 'ms', 0)}")
    print(f"  %load_ext mlc_widget after it {shown(ours, 'ms', 0)}   (goal: below 300 ms)")


if __name__ == "__main__":
    main()
