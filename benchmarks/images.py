"""The networks of `softargmax demo --images` on seeds 0 to 4: the table of docs/pictures.md.

python -m benchmarks.images FOLDER       the runs are kept in FOLDER; those that are there are not trained again
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import softargmax as sa
from softargmax.cli.demo import IMAGE_RUNS
from softargmax.training import Run, Settings
from softargmax.training.run import INDEX
from softargmax.training.start import start

SEEDS = range(5)
HEAD = """\
| network | parameters | accuracy | NLL before → after | ECE before → after | if perfect | Brier before → after | T |
|---|---|---|---|---|---|---|---|"""


def main(folder: Path) -> None:
    print(HEAD)
    for name, pooling, epochs in IMAGE_RUNS:
        runs = []
        for seed in SEEDS:
            at = folder / f"{name}-{seed}"
            settings = Settings("fashion-mnist-mini", pooling=pooling, epochs=epochs, seed=seed)
            runs.append(start(at, settings, resume=(at / INDEX).exists()))
        print(_line(runs), flush=True)


def _line(runs: list[Run]) -> str:
    before = [sa.evaluate(run.test.labels, logits=run.test.logits) for run in runs]
    after = [sa.evaluate(r.test.labels, logits=r.calibrator.predict_log_proba(r.test.logits)) for r in runs]

    def both(metric: str) -> str:
        return " → ".join(_spread([getattr(e, metric) for e in of]) for of in (before, after))

    accuracy = _spread([100 * e.accuracy for e in before], 2)
    nulls = _spread([e.null("ece") for e in after])
    temperatures = [run.calibrator.temperature_ for run in runs]
    return (
        f"| {runs[0].settings.name}, {runs[0].settings.epochs} epochs | {runs[0].n_parameters:,} "
        f"| {accuracy}% | {both('nll')} | {both('ece')} | {nulls} | {both('brier')} | {_spread(temperatures, 2)} |"
    )


def _spread(values: list[float], digits: int = 4) -> str:
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
