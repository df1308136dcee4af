"""Exponential functions of numba's kernels against NumPy's in float64."""

import numpy as np
import pytest

from residualformer.optional import is_installed

pytestmark = pytest.mark.skipif(not is_installed("numba"), reason="numba is not installed")


def test_exp():
    from residualformer.kernels.numba_math import FAR, exp

    x = np.concatenate([np.linspace(FAR, 0, 4001), -np.logspace(-18, 1.8, 500)]).astype(np.float32)
    ours, exact = np.array([float(exp(value)) for value in x]), np.exp(x.astype(np.float64))
    assert (abs(ours / exact - 1) <= (2 + abs(x)) * 1e-7).all()
    assert exp(np.float32(-np.inf)) == 0.0 and exp(np.nextafter(FAR, np.float32(-100))) == 0.0
    assert np.isnan(exp(np.float32(np.nan)))


@pytest.mark.parametrize(
    "name, exact, least", [("tanh", np.tanh, -1.0), ("sigmoid", lambda x: 1 / (1 + np.exp(-x)), 0)]
)
def test_bounded_functions(name, exact, least):
    from residualformer.kernels import numba_math

    function = getattr(numba_math, name)
    x = np.concatenate([np.linspace(-80, 80, 4001), np.linspace(-12, 12, 4001), np.logspace(-30, 0, 100)])
    x = x.astype(np.float32)
    ours = np.array([function(value) for value in x])
    assert abs(ours - exact(x.astype(np.float64))).max() <= 1.5e-7  # two roundings of numbers near 1, and exp's error
    assert ours.max() == 1.0 and ours.min() == least
    assert np.isnan(function(np.float32(np.nan)))
