"""An objective -> its minimum, and whether it was reached."""

from softargmax.solvers.mixture import Mixture, fit_mixture
from softargmax.solvers.multinomial import Dense, Diagonal, MultinomialFit, Penalty, fit_multinomial
from softargmax.solvers.newton_1d import Minimum, minimize_newton_1d

__all__ = [
    "Dense",
    "Diagonal",
    "Minimum",
    "Mixture",
    "MultinomialFit",
    "Penalty",
    "fit_mixture",
    "fit_multinomial",
    "minimize_newton_1d",
]
