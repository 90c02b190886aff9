import numpy as np
import pytest
import zoo
from hypothesis import settings

import normc

# The same examples in every run: what fails in CI fails at home.
settings.register_profile("normc", deadline=None, derandomize=True, database=None,
                          max_examples=60)
settings.load_profile("normc")


@pytest.fixture
def rng():
    return np.random.default_rng(20180319)


@pytest.fixture(params=zoo.CPU_LEVELS)
def cpu(request):
    """Each instruction set this machine has, in use for one test."""
    before = normc._core._use_cpu(request.param)
    try:
        if normc._core._use_cpu(request.param) != request.param:
            pytest.skip(f"this machine has no {request.param}")
        yield request.param
    finally:
        normc._core._use_cpu(before)
