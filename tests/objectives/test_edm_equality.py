"""An oscillation trained under EDM's law is EDM: the same loss on the same draws, for any frequency.

EDM is written here from Karras et al. 2022, table 1 and equation 8. With x = cos(wt) y + sin(wt)/w e and
sigma = tan(wt)/w, EDM's noisy image is y + sigma e = x / cos(wt), and its network is minus ours (the target's sign).
"""

import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fixed_draws import GivenTime, with_noise
from tiny_network import TinyNetwork

import hamflow as hf


def edm_loss(network, clean, noise, sigma, data_std):
    """lambda(sigma) |D(y + n, sigma) - y|^2, averaged over coordinates, for one image."""
    total = sigma**2 + data_std**2
    c_skip, c_out = data_std**2 / total, sigma * data_std / jnp.sqrt(total)
    c_in, c_noise = 1 / jnp.sqrt(total), jnp.log(sigma) / 4
    noisy = clean + noise
    denoised = c_skip * noisy + c_out * network(c_noise, c_in * noisy)
    return total / (sigma * data_std) ** 2 * jnp.mean((denoised - clean) ** 2)


@pytest.mark.parametrize(("w", "data_std"), [(2.0, 0.5), (1.0, 0.5), (0.3, 0.5), (3.0, 1.7)])
def test_loss_is_edm_loss_draw_by_draw(w, data_std, x64):
    rng = np.random.default_rng(0)
    n, shape = 200, (2, 3)
    clean, e = jnp.asarray(rng.normal(0.2, data_std, (n, *shape))), jnp.asarray(rng.normal(size=(n, *shape)))
    sigma = jnp.asarray(np.exp(rng.normal(-1.2, 1.2, n)))
    network, flow = TinyNetwork(6, dtype=np.float64), hf.oscillation(w)

    @jax.jit
    @jax.vmap
    def both(y, e, sigma):
        predictor = hf.Preconditioned(lambda c_noise, x, condition, key: network(c_noise, x), flow, data_std)
        t = jnp.arctan(w * sigma) / w
        loss = hf.velocity_matching_loss(
            predictor, with_noise(flow, e[None]), y[None], jr.key(0), time_law=GivenTime(t[None])
        )
        return loss, edm_loss(lambda c_noise, x: -network(c_noise, x), y, sigma * e, sigma, data_std)

    hamiltonian, edm = both(clean, e, sigma)
    assert float(jnp.std(edm)) > 0.1  # the draws differ
    np.testing.assert_allclose(hamiltonian, edm, rtol=1e-10)


def test_the_default_law_is_edms_law(x64):
    """Means of 2 x 256,000 draws agree within 4.4 standard errors (alarm 1e-5); of a law off by .2 they do not.

    The network's error grows with sigma, so that the law matters.
    """
    w, data_std, batches, size = 2.0, 0.5, 64, 4000
    rng = np.random.default_rng(1)

    def network(c_noise, x, condition=None, key=None):
        return 2 * jax.nn.sigmoid(4 * c_noise + 1.2) * x

    data = jnp.asarray(rng.normal(0, data_std, (size, 1)))
    predictor = hf.Preconditioned(network, hf.oscillation(w), data_std)
    loss = jax.jit(jax.vmap(lambda key: hf.velocity_matching_loss(predictor, hf.oscillation(w), data, key)))
    ours = np.asarray(loss(jr.split(jr.key(2), batches)))

    def edm(mean):
        sigma = jnp.asarray(np.exp(rng.normal(mean, 1.2, (batches, size))))
        noise = sigma[..., None] * jnp.asarray(rng.normal(size=(batches, size, 1)))
        one = jax.vmap(lambda y, n, s: edm_loss(lambda c, x: -network(c, x), y, n, s, data_std))
        return np.asarray(jnp.mean(jax.vmap(lambda n, s: one(data, n, s))(noise, sigma), axis=1))

    def z_score(reference):
        return (ours.mean() - reference.mean()) / math.sqrt((ours.var() + reference.var()) / batches)

    assert abs(z_score(edm(-1.2))) < 4.4
    assert abs(z_score(edm(-1.0))) > 6
