"""What every network must do: one registry, every law run on every entry. Then what is particular to each."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from perturbation import normal, perturbed

from hamflow.networks import MLP, FourierFeatures, UNet

SMALL = {"base_channels": 8, "channel_multipliers": (1, 2), "blocks_per_level": (0, 1), "attention_resolutions": (4,)}


def unet(**changes):
    return UNet(8, **{**SMALL, "embedding_multiplier": 2, **changes}, key=jax.random.key(0))


def shallow_unet(**changes):
    return unet(channel_multipliers=(1,), blocks_per_level=0, attention_resolutions=(), **changes)


# name -> (network, shape of x, condition, the null condition)
NETWORKS = {
    "mlp": (lambda: MLP((2, 3), width=16, depth=2, dropout=0.3, key=jax.random.key(0)), (2, 3), None, None),
    "mlp of a number": (lambda: MLP((), width=16, depth=1, dropout=0.3, key=jax.random.key(0)), (), None, None),
    "plain mlp, classes, octaves": (
        lambda: MLP(
            3, width=16, depth=2, residual=False, dropout=0.3, num_classes=4, position_octaves=2, key=jax.random.key(0)
        ),
        (3,),
        np.asarray(2),
        np.asarray(4),
    ),
    "unet, classes": (lambda: unet(num_classes=5, attention_heads=2), (3, 8, 8), np.asarray(3), np.asarray(5)),
    "unet, vectors, grey, patches": (
        lambda: unet(
            channels_in=1, condition_size=4, patch_size=2, adaptive_scale=False, noise_features=FourierFeatures(6)
        ),
        (1, 8, 8),
        np.array([1.0, -0.5, 0.3, 2.0], np.float32),
        np.zeros(4, np.float32),
    ),
}


@eqx.filter_jit
def run(network, c_noise, x, condition=None, key=None):
    return network(c_noise, x, condition, key)


@eqx.filter_jit
def run_batch(network, c_noise, xs, condition):
    return jax.vmap(lambda c, x: network(c, x, condition))(c_noise, xs)


@eqx.filter_jit
@eqx.filter_grad
def gradient(network, x, target, condition=None):
    return jnp.sum((network(jnp.asarray(0.3), x, condition) - target) ** 2)


@pytest.fixture(scope="module", params=NETWORKS)
def case(request):
    make, shape, condition, null = NETWORKS[request.param]
    return perturbed(make), normal(1, shape), condition, null


def parameters(network):
    return eqx.filter(network, eqx.is_inexact_array)


def test_shape_and_dtype_are_those_of_x(case):
    network, x, condition, _ = case
    y = run(network, jnp.asarray(0.3), x, condition)
    assert (y.shape, y.dtype) == (x.shape, jnp.float32)
    assert bool(jnp.all(jnp.isfinite(y)))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(parameters(network)))


def test_a_batch_is_its_examples(case):
    network, x, condition, _ = case
    xs = jnp.stack([x, -x, 2 * x])
    c_noise = jnp.array([-1.0, 0.2, 1.5])
    batch = run_batch(network, c_noise, xs, condition)
    for i in range(3):
        np.testing.assert_allclose(batch[i], run(network, c_noise[i], xs[i], condition), rtol=1e-4, atol=1e-5)


def test_the_noise_level_and_the_condition_change_the_output(case):
    network, x, condition, null = case
    y = run(network, jnp.asarray(0.3), x, condition)
    assert float(jnp.max(jnp.abs(run(network, jnp.asarray(1.3), x, condition) - y))) > 1e-3
    if condition is not None:
        unconditional = run(network, jnp.asarray(0.3), x, null)
        assert float(jnp.max(jnp.abs(unconditional - y))) > 1e-3


def test_gradients_reach_every_parameter(case):
    network, x, condition, _ = case
    gradients = gradient(network, x, normal(2, x.shape), condition)
    for path, leaf in jax.tree_util.tree_leaves_with_path(parameters(gradients)):
        name = jax.tree_util.keystr(path)
        if "condition.weight" in name and condition is not None and condition.shape == ():
            others = np.delete(np.asarray(leaf), condition, axis=0)
            assert not np.any(others), name  # only the row of the class asked for learns from it
        assert np.any(np.asarray(leaf)), name


def test_there_is_nothing_else_to_train(case):
    network = case[0]
    arrays = [leaf for leaf in jax.tree.leaves(network) if isinstance(leaf, jax.Array | np.ndarray)]
    assert len(arrays) == len(jax.tree.leaves(parameters(network)))


def test_dropout(case):
    network, x, condition, _ = case
    still = run(network, jnp.asarray(0.3), x, condition)
    np.testing.assert_array_equal(still, run(network, jnp.asarray(0.3), x, condition))
    one, same, other = (run(network, jnp.asarray(0.3), x, condition, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert bool(jnp.any(one != other))
    assert bool(jnp.any(one != still))


def test_a_new_network_returns_zero_and_one_step_lowers_the_loss():
    # So the first prediction is the preconditioning alone, and yet the gradient leads away from it.
    for network, shape in ((MLP((2,), width=8, depth=1, key=jax.random.key(0)), (2,)), (shallow_unet(), (3, 8, 8))):
        x, target = normal(1, shape), normal(2, shape)
        start = run(network, jnp.asarray(0.3), x)
        assert not np.any(start)
        step = jax.tree.map(lambda g: -1e-3 * g, gradient(network, x, target))
        after = run(eqx.apply_updates(network, step), jnp.asarray(0.3), x)
        assert float(jnp.mean((after - target) ** 2)) < float(jnp.mean((start - target) ** 2))


def symmetric_task():
    """x on both sides of 0 and an odd target without a linear part: what preconditioning leaves of symmetric data."""
    x = jnp.linspace(-2.0, 2.0, 201)
    cubic = x**3
    target = cubic - jnp.sum(cubic * x) / jnp.sum(x**2) * x
    return x[:, None], (target / jnp.std(target))[:, None]


@pytest.mark.parametrize("residual", [True, False])
def test_symmetric_data_are_no_saddle(residual):
    """A new network can learn them: with residual branches that start at zero every gradient here is zero (1e-8)."""
    x, target = symmetric_task()
    network = MLP((1,), width=64, depth=3, residual=residual, key=jax.random.key(0))
    trained, static = eqx.partition(network, eqx.is_inexact_array)

    def loss(trained):
        network = eqx.combine(trained, static)
        return jnp.mean((jax.vmap(network, (None, 0))(jnp.asarray(0.3), x) - target) ** 2)

    gradients = jax.grad(loss)(trained)
    assert float(jnp.max(jnp.abs(gradients.layer_out.weight))) > 1e-2
    for _ in range(20):
        trained = jax.tree.map(lambda p, g: p - 3e-2 * g, trained, jax.grad(loss)(trained))
    assert float(loss(trained)) < 0.98  # 1.0 at the start


@pytest.mark.parametrize("make", [lambda: MLP((3, 8, 8), width=8, depth=1, key=jax.random.key(0)), shallow_unet])
def test_double_precision(x64, make):
    network = perturbed(make)
    assert all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(parameters(network)))
    x = normal(1, (3, 8, 8))
    y = run(network, jnp.asarray(0.3), x)
    assert y.dtype == jnp.float64
    low = run(network, jnp.asarray(0.3), x.astype(jnp.float32))  # the same parameters, asked in single precision
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, y, rtol=1e-4, atol=1e-4)


def test_computing_in_bfloat16_keeps_parameters_and_output_in_float32():
    exact, rough = perturbed(shallow_unet), perturbed(lambda: shallow_unet(dtype="bfloat16"))
    x = normal(1, (3, 8, 8))
    y, z = run(exact, jnp.asarray(0.3), x), run(rough, jnp.asarray(0.3), x)
    assert z.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(parameters(rough)))
    error = float(jnp.sqrt(jnp.mean((y - z) ** 2) / jnp.mean(y**2)))
    assert 1e-5 < error < 0.05  # 8 bits of mantissa over some twenty layers, and not simply float32


def test_recomputing_blocks_changes_no_gradient():
    x, target = normal(1, (3, 8, 8)), normal(2, (3, 8, 8))
    kept = gradient(perturbed(shallow_unet), x, target)
    recomputed = gradient(perturbed(lambda: shallow_unet(checkpoint=True)), x, target)
    for a, b in zip(jax.tree.leaves(parameters(kept)), jax.tree.leaves(parameters(recomputed)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_the_published_sizes():
    """Shapes only. DDPM++ of Karras et al. 2022 has 55.7 million parameters for CIFAR-10 and 61.8 for FFHQ at 64."""

    def count(*arguments, **keywords):
        network = eqx.filter_eval_shape(lambda key: UNet(*arguments, **keywords, key=key), jax.random.key(0))
        return sum(leaf.size for leaf in jax.tree.leaves(network) if hasattr(leaf, "size"))

    assert round(count(32, adaptive_scale=False) / 1e6, 1) == 55.7
    ffhq = {"channel_multipliers": (1, 2, 2, 2)}
    assert round(count(64, **ffhq, adaptive_scale=False) / 1e6, 1) == 61.8
    # A scale for each channel of the 33 blocks of CIFAR-10, all of 256 channels but the stem's: 512 weights and a bias.
    assert count(32) - count(32, adaptive_scale=False) == (1 + 512) * 256 * 33


def test_the_number_of_parameters_of_an_mlp():
    width, depth, features, d = 16, 3, 64, 2
    embedding = (features + 1) * width + (width + 1) * width
    layer = 2 * (width + 1) * width + (width + 1) * 2 * width
    expected = embedding + (d + 1) * width + depth * layer + (width + 1) * d
    network = MLP((d,), width=width, depth=depth, key=jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(parameters(network))) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel_multipliers": (1,) * 5, "blocks_per_level": 1}, "resolution 8 is not divisible by 16"),
        ({"patch_size": 3}, "resolution 8 is not divisible by 6"),
        ({"attention_resolutions": (16, 4)}, r"\[16\] are never reached: the levels have sizes \[8, 4\]"),
        ({"blocks_per_level": (1, 1, 1)}, "blocks_per_level"),
        ({"blocks_per_level": -1}, "blocks_per_level"),
        ({"channel_multipliers": ()}, "channel_multipliers"),
        ({"base_channels": 7}, "base_channels must be even"),
        ({"dropout": 1.0}, "dropout"),
        ({"attention_heads": 3}, "3 heads do not divide 16 channels"),
        ({"dtype": "int32"}, "dtype"),
        ({"channels_in": 0}, "channels_in"),
        ({"num_classes": 3, "condition_size": 2}, "give one of"),
    ],
)
def test_a_unet_that_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        unet(**changes)


@pytest.mark.parametrize("changes", [{"event_shape": (0,)}, {"width": 0}, {"depth": 0}, {"dropout": -0.1}])
def test_an_mlp_that_does_not_fit_is_refused(changes):
    with pytest.raises(ValueError, match=r"event_shape|dropout"):
        MLP(**{"event_shape": (2,), **changes}, key=jax.random.key(0))


def test_an_example_that_does_not_fit_is_refused():
    network = MLP((2,), width=8, depth=1, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"one example of shape \(2,\), got \(5, 2\).*vmap"):
        network(0.3, jnp.ones((5, 2)))
    with pytest.raises(ValueError, match=r"one example of shape \(3, 8, 8\), got \(3, 16, 16\)"):
        perturbed(unet)(0.3, jnp.ones((3, 16, 16)))
    with pytest.raises(ValueError, match="condition was given to an unconditional network"):
        network(0.3, jnp.ones(2), 1)
