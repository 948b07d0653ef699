"""Make src/softargmax/data/fashion-mnist-mini.npz, the pictures that come with the package, from Fashion-MNIST.

python tools/make_fashion_mnist_mini.py [FOLDER]      FOLDER, or $SOFTARGMAX_DATA, holds fashion-mnist/*.gz
"""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

SHA256 = {
    "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
N_TRAIN, N_TEST = 10_000, 2_000
TARGET = Path(__file__).resolve().parents[1] / "src" / "softargmax" / "data" / "fashion-mnist-mini.npz"
CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
PROVENANCE = (
    "The first 10,000 training and the first 2,000 test images of Fashion-MNIST, pixels and labels unchanged. "
    "H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning "
    "Algorithms, arXiv:1708.07747, 2017. https://github.com/zalandoresearch/fashion-mnist\n\n"
    """The MIT License (MIT)

Copyright © 2017 Zalando SE, https://tech.zalando.com

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the “Software”), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED “AS IS”, WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""
)


def main() -> None:
    """Read, check, write."""
    folder = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("SOFTARGMAX_DATA")
    if folder is None:
        sys.exit(__doc__)
    source = Path(folder) / "fashion-mnist"
    train_images, train_labels, test_images, test_labels = (unpacked(source / name) for name in SHA256)
    np.savez_compressed(  # same arrays, same bytes: NumPy dates every member 1980-01-01
        TARGET,
        train_images=train_images[16:].reshape(-1, 28, 28)[:N_TRAIN],
        train_labels=train_labels[8:][:N_TRAIN],
        test_images=test_images[16:].reshape(-1, 28, 28)[:N_TEST],
        test_labels=test_labels[8:][:N_TEST],
        class_names=np.array(CLASSES),
        provenance=np.array(PROVENANCE),
    )
    print(f"wrote {TARGET}: {TARGET.stat().st_size:,} bytes")


def unpacked(path: Path) -> npt.NDArray[np.uint8]:
    """What the file unpacks to, header and all, if it is the one that is known."""
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256[path.name]:
        sys.exit(f"{path} has SHA-256 {found}; wanted {SHA256[path.name]}")
    return np.frombuffer(gzip.decompress(content), np.uint8)


if __name__ == "__main__":
    main()
