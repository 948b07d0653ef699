"""`library`: every array library in turn. `typed`: every library with each of its float dtypes."""

import pytest

from tests.cases import libraries


@pytest.fixture(params=libraries.NAMES)
def library(request):
    return libraries.get(request.param)


@pytest.fixture(params=libraries.typed(), ids="-".join)
def typed(request):
    name, dtype = request.param
    library = libraries.get(name)
    with library.precision(dtype):
        yield library, dtype
