"""200 cases with exact values -> how far every installed library is from them, in units of the budget."""

from softargmax.parity.cases import Case, Result, cases
from softargmax.parity.libraries import LIBRARIES, Library, Unavailable, installed
from softargmax.parity.measure import Difference, Outcome, Row, Table, compare, document
from softargmax.parity.peers import PEERS

__all__ = [
    "LIBRARIES",
    "PEERS",
    "Case",
    "Difference",
    "Library",
    "Outcome",
    "Result",
    "Row",
    "Table",
    "Unavailable",
    "cases",
    "compare",
    "document",
    "installed",
]
