"""An objective -> its minimum, and whether it was reached."""

from softargmax.solvers.newton_1d import Minimum, minimize_newton_1d

__all__ = ["Minimum", "minimize_newton_1d"]
