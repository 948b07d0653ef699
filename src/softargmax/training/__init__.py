"""(network, data) -> a trained model: a run folder that holds everything, and can be gone on with."""

from softargmax.training.run import Examples, Run, read_run, run_kind
from softargmax.training.settings import Epoch, Inputs, Settings

__all__ = ["Epoch", "Examples", "Inputs", "Run", "Settings", "read_run", "run_kind"]
