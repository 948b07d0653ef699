"""Everything measured -> results.md, results.json and ratio.svg, beside this file.

python -m benchmarks [FOLDER]       --quick: small arrays, no fits and no trainings; a few seconds
"""

import sys
from dataclasses import replace
from pathlib import Path

from softargmax.cli.bench import run, write

PICTURE = "ratio.svg"


def main(folder: Path, *, quick: bool) -> None:
    results = run(quick=quick)
    if not quick:
        from benchmarks import temperature, training

        results = replace(results, whole=(*temperature.run(), *training.run()))
    for name in ("results.md", "results.json", PICTURE):
        write(results, folder / name, command="make bench", picture=PICTURE)
        print(f"wrote {folder / name}")


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--quick"]
    main(Path(words[0]) if words else Path(__file__).parent, quick="--quick" in sys.argv)
