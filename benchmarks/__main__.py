import os
import platform
from pathlib import Path

import numba
import numpy
import scipy
import sklearn
import torch

from benchmarks import softmax, temperature, training

HEAD = """# Speed, side by side

Written by `make bench`. A ratio is the peer's time over ours in the same round (above 1: ours is faster): the median
over interleaved rounds in one process, with the smallest and largest. Our kernels ran on one thread.

{machine}

| work | shape | against | median ratio | all rounds |
|---|---|---|---|---|
"""


def main() -> None:
    versions = ", ".join(f"{m.__name__} {m.__version__}" for m in (numpy, scipy, sklearn, numba, torch))
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, {versions}."
    rows = [*softmax.run(), *temperature.run(), *training.run()]
    path = Path(__file__).with_name("results.md")
    path.write_text(HEAD.format(machine=machine) + "\n".join(map(str, rows)) + "\n")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
