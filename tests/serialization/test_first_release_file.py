"""A file of the first release loads for ever."""

import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import hamflow as hf

FILE = pathlib.Path(__file__).parent / "first_release" / "predictor.safetensors"


def test_a_file_of_the_first_release_loads():
    found = hf.load(FILE)
    predictor, flow = found["predictor"], found["flow"]
    assert isinstance(predictor, hf.Preconditioned)
    assert isinstance(flow, hf.Flow)
    assert (predictor.data_std, predictor.data_mean) == (0.5, 0.25)
    arrays = jax.tree.leaves(eqx.filter(predictor.network, eqx.is_inexact_array))
    assert len(arrays) > 3
    for array in arrays:
        np.testing.assert_array_equal(np.ravel(array), np.arange(array.size) / 8)
    assert found["half"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(jax.random.key_data(found["key"]), jax.random.key_data(jax.random.key(3)))
    # A quarter of a swing at the frequency 2 takes data to momenta, and the other way.
    np.testing.assert_allclose(flow.horizon, np.pi / 4, rtol=1e-6)
    assert predictor(0.3, jnp.ones(2)).shape == (2,)
