"""Make src/softargmax/data/cifar10-resnet20.npz, the predictions that come with the package, from the saved outputs.

python tools/make_cifar10_resnet20.py [FOLDER]      FOLDER, or $SOFTARGMAX_DATA, holds cifar10-jpeg_resnet20_logits.npz
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
from pathlib import Path

import numpy as np

SOURCE = "cifar10-jpeg_resnet20_logits.npz"
SHA256 = "c2d918ff8dd0713d7ddefdab1a7a2489cdac04b649913c4a33e2f8c35d16639b"
TARGET = Path(__file__).resolve().parents[1] / "src" / "softargmax" / "data" / "cifar10-resnet20.npz"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PROVENANCE = (
    "Pre-activation outputs (logits) of the pretrained ResNet-20 of akamaster/pytorch_resnet_cifar10 at commit "
    "d5489e8995e81e91ce6b1d69dcc98ad579b0b153 (BSD-2-Clause), run in float32 on JPEG copies (quality 75, chroma "
    "subsampled) of the 10,000 CIFAR-10 test pictures in the original test order. The network saw clean CIFAR-10 in "
    "training, so this is a genuine input shift and it is over-confident. "
    "CIFAR-10: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009."
)


def main() -> None:
    """Read, check, write."""
    folder = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("SOFTARGMAX_DATA")
    if folder is None:
        sys.exit(__doc__)
    content = (Path(folder) / SOURCE).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        sys.exit(f"{SOURCE} has SHA-256 {found}; wanted {SHA256}")
    with np.load(io.BytesIO(content), allow_pickle=False) as source:
        np.savez_compressed(  # same arrays, same bytes: NumPy dates every member 1980-01-01
            TARGET,
            logits=source["logits"].astype(np.float32),
            labels=source["labels"].astype(np.int16),
            class_names=np.array(CLASSES),
            provenance=np.array(PROVENANCE),
        )
    print(f"wrote {TARGET}: {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
