import os

import hypothesis
import pytest

from softargmax.backends import numpy as numpy_backend

# the same examples on every run; a campaign with fresh ones: HYPOTHESIS_PROFILE=fresh
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=150)
hypothesis.settings.register_profile("fresh", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(params=["kernels", "definitions"])
def engine(request, monkeypatch):
    """Every test that asks for it runs twice: with the kernels, and as if Numba were not installed."""
    if request.param == "definitions":
        monkeypatch.setattr(numpy_backend, "_numba_compiles", lambda: False)
    return request.param
