"""The laws of mechanics, on every entry of `systems.py`.

A motion in closed form is exact, so there is no step size to blame: what deviates by more than rounding is wrong. An
integrator retraces its steps and is symplectic to rounding too; the rest holds to the accuracy of its order.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats
from jax.flatten_util import ravel_pytree
from systems import FLOWS, SYSTEMS, array

import hamflow as hf

EVERY_FLOW = pytest.mark.parametrize("name", FLOWS)
MIXED = ("magnetic", "riemannian")  # position and momentum do not come apart


def states(key, system, shape, n):
    """States inside the domain; the momenta are those of the system's own law, or normal."""
    lower, upper = (getattr(system.domain, end, default) for end, default in (("lower", -1.5), ("upper", 1.5)))
    lower, upper = jnp.broadcast_to(lower, (n, *shape)), jnp.broadcast_to(upper, (n, *shape))
    position = jr.uniform(key, (n, *shape)) * (upper - lower) + lower
    momentum = jr.normal(jr.fold_in(key, 1), (n, *shape))
    return hf.PhaseState(position, momentum)


def symplectic_defect(jacobian):
    """max |J^T Omega J - Omega|, relative to |J|^2."""
    half = len(jacobian) // 2
    omega = np.kron([[0.0, 1.0], [-1.0, 0.0]], np.eye(half))
    return np.max(np.abs(jacobian.T @ omega @ jacobian - omega)) / max(1.0, np.max(np.abs(jacobian)) ** 2)


@functools.cache
def measured(name) -> dict:
    """What one flow does to a few states, in double precision: compiled once, read by every law below."""
    entry = FLOWS[name]
    with jax.enable_x64(True):
        flow = entry.build()
        start = states(jr.key(0), flow.system, entry.shape, 4)
        zero, t1, t2 = 0.0, 0.37 * flow.horizon, 0.83 * flow.horizon

        # One call takes four states to four times each; it runs twice and compiles once.
        @eqx.filter_jit
        def move(state, t, t0):
            return jax.vmap(jax.vmap(flow.evolve, (None, 0, 0)), (0, None, None))(state, t, t0)

        still, there, end, before = _columns(move(start, array(t1, t1, t2, -t1), array(t1, zero, zero, zero)))
        back, via, _, _ = _columns(move(there, array(zero, t2, t1, t1), array(t1, t1, t1, t1)))
        again, _, _, _ = _columns(move(before, array(zero, t1, t1, t1), array(-t1, -t1, -t1, -t1)))

        unravel = ravel_pytree(_row(start, 0))[1]
        derivative = jax.jacfwd(lambda z, t: ravel_pytree(flow.evolve(unravel(z), t))[0], argnums=(0, 1))
        system = flow.system
        energy = jax.vmap(getattr(system, "energy", lambda t, s: t), (None, 0))

        @eqx.filter_jit
        def rest(start, end, zero, t2):
            flat = jax.vmap(lambda state: ravel_pytree(state)[0])(start)
            jacobian, rate = jax.vmap(derivative, (0, None))(flat, t2)
            return {
                "jacobian": jacobian,
                "rate": jax.vmap(unravel)(rate),
                "field": jax.vmap(system.vector_field, (None, 0))(t2, end),
                "velocity": jax.vmap(flow.velocity, (0, None))(end, t2),
                "energies": [energy(t, s) for t, s in ((zero, start), (t2, end))],
                "contained": jax.vmap(system.domain.contains)(end.position),
            }

        got = {"start": start, "end": end, "still": still, "back": back, "via": via, "again": again}
        got |= rest(start, end, *array(zero, t2))
        return jax.tree.map(np.asarray, got)


def _row(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


def _columns(tree):
    return [jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[:, i], tree) for i in range(4)]


def assert_same(left, right, tolerance=1e-10):
    """Two trees agree, relative to the largest entry."""
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=0.0, atol=tolerance * (1.0 + np.max(np.abs(b))))


@EVERY_FLOW
def test_there_and_back_returns(name):
    got = measured(name)
    assert_same(got["back"], got["start"])
    assert_same(got["again"], got["start"])  # to a negative time and back
    assert_same(got["still"], got["start"], 1e-14)
    assert np.max(np.abs(got["end"].position - got["start"].position)) > 1e-2  # else nothing was tested


@EVERY_FLOW
def test_evolve_composes(name):
    assert_same(measured(name)["via"], measured(name)["end"], FLOWS[name].accuracy)


@EVERY_FLOW
def test_jacobian_is_symplectic(name):
    for jacobian in measured(name)["jacobian"]:
        assert symplectic_defect(jacobian) < 1e-10


@pytest.mark.parametrize("name", [name for name, entry in FLOWS.items() if entry.conserves_energy])
def test_energy_is_conserved(name):
    before, after = measured(name)["energies"]
    tolerance = 1e-12 if FLOWS[name].accuracy == 1e-10 else FLOWS[name].accuracy
    np.testing.assert_allclose(after, before, rtol=tolerance, atol=tolerance)


def test_energy_of_a_driven_system_is_not_conserved():
    before, after = measured("driven")["energies"]
    assert np.min(np.abs(after - before)) > 1e-2


@EVERY_FLOW
def test_motion_obeys_the_vector_field(name):
    got = measured(name)
    assert_same(got["rate"], got["field"], FLOWS[name].accuracy)
    assert_same(got["velocity"], got["field"].position, 1e-14)


@EVERY_FLOW
def test_motion_stays_in_the_domain(name):
    assert np.all(measured(name)["contained"])


@EVERY_FLOW
def test_evolve_by_itself_is_evolve_compiled_and_batched(name, x64):
    got, flow = measured(name), FLOWS[name].build()
    end = flow.evolve(jax.tree.map(jnp.asarray, _row(got["start"], 0)), 0.83 * flow.horizon)
    assert_same(end, _row(got["end"], 0))


# -- systems, with a closed form or without --------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name not in MIXED])
def test_kick_and_drift_are_the_two_halves_of_the_vector_field(name, x64):
    """Both symplectic, both undone by the opposite step, and together d(state)/dt at h = 0."""
    system = SYSTEMS[name].build()
    state = jax.tree.map(lambda leaf: leaf[0], states(jr.key(3), system, SYSTEMS[name].shape, 1))
    t, h = array(0.4, 0.3)

    @eqx.filter_jit
    def measure(system, state, t, h):
        flat, unravel = ravel_pytree(state)

        def steps(z, h):
            return ravel_pytree(system.kick(t, unravel(z), h))[0], ravel_pytree(system.drift(t, unravel(z), h))[0]

        # At h = 0 for the rates, and at h for the maps.
        (kick, kick_rate), (drift, drift_rate) = jax.vmap(jax.jacfwd(steps, argnums=(0, 1)), (None, 0))(
            flat, jnp.stack([jnp.zeros_like(h), h])
        )
        there = system.kick(t, system.drift(t, state, h), h)
        back = system.drift(t, system.kick(t, there, -h), -h)
        field = ravel_pytree(system.vector_field(t, state))[0]
        return kick[1], drift[1], kick_rate[0] + drift_rate[0], field, back

    kick, drift, rate, field, back = jax.tree.map(np.asarray, measure(system, state, t, h))
    np.testing.assert_allclose(rate, field, atol=1e-12)
    assert_same(back, state, 1e-12)
    assert symplectic_defect(drift) < 1e-12
    if "swirl" in name or name == "network force":  # dp = h F(x) with a force that no potential has
        assert symplectic_defect(kick) > 1e-2
    else:
        assert symplectic_defect(kick) < 1e-12


@pytest.mark.parametrize("name", [name for name, entry in SYSTEMS.items() if entry.has_energy])
def test_vector_field_is_the_symplectic_gradient_of_the_energy(name, x64):
    system = SYSTEMS[name].build()
    state = jax.tree.map(lambda leaf: leaf[0], states(jr.key(4), system, SYSTEMS[name].shape, 1))
    t = jnp.asarray(0.4, float)
    gradient, field = eqx.filter_jit(lambda s, z: (jax.grad(s.energy, argnums=1)(t, z), s.vector_field(t, z)))(
        system, state
    )
    np.testing.assert_allclose(field.position, gradient.momentum, atol=1e-13)
    np.testing.assert_allclose(field.momentum, -gradient.position, atol=1e-13)


@pytest.mark.parametrize("name", [name for name, entry in SYSTEMS.items() if not entry.has_energy])
def test_a_system_that_has_no_energy_does_not_claim_one(name):
    assert not hasattr(SYSTEMS[name].build(), "energy")


@pytest.mark.parametrize("name", [name for name in SYSTEMS if f"system: {name}" not in FLOWS])
def test_a_system_without_closed_form_is_refused(name):
    """The documented ones have one (`systems.CLOSED`), and no other claims to."""
    system = SYSTEMS[name].build()
    assert system.propagator() is None
    with pytest.raises(ValueError, match="has no closed form: give an integrator"):
        hf.Flow(system, hf.IndependentCoupling(), 1.0, hf.NormalPrior())


# -- the law at the horizon ------------------------------------------------------------------------------------------

DRAWS = 4000
FALSE_ALARM = 1e-4  # of one entry, for a right flow; the keys are fixed


def to_uniform(prior, x):
    """Coordinates that are independent and uniform on [0, 1] if x, (n, size), is drawn from the prior."""
    if isinstance(prior, hf.ScaledPrior):
        return to_uniform(prior.prior, x / np.asarray(prior.factor))
    if isinstance(prior, hf.UniformPrior):
        lower, upper = (np.broadcast_to(np.asarray(end), x.shape[1:]) for end in (prior.lower, prior.upper))
        return ((x - lower) / (upper - lower)).reshape(len(x), -1)
    offset = (x - np.asarray(prior.mean)).reshape(len(x), -1)
    scale = np.asarray(prior.scale)
    dense = scale.ndim > 1
    white = np.linalg.solve(scale.reshape(len(offset.T), -1), offset.T).T if dense else offset / scale
    if isinstance(prior, hf.StudentTPrior):  # coordinate i given those before it is Student-t with nu + i of freedom
        freedom = prior.degrees_of_freedom + np.arange(white.shape[1])
        before = np.cumsum(white**2, axis=1) - white**2
        return scipy.stats.t(freedom).cdf(white * np.sqrt(freedom / (prior.degrees_of_freedom + before)))
    return scipy.stats.norm.cdf(white)


def misfits(prior, x):
    """p-values: Kolmogorov-Smirnov in every coordinate, correlation in every pair (normal scores), two-sided."""
    u = to_uniform(prior, x)
    marginal = [scipy.stats.kstest(column, "uniform", method="asymp").pvalue for column in u.T]
    scores = scipy.stats.norm.ppf(np.clip(u, 1e-12, 1.0 - 1e-12))
    products = (scores.T @ scores / len(u))[np.triu_indices(scores.shape[1], 1)]
    joint = list(2.0 * scipy.stats.norm.sf(np.abs(products) * len(u) ** 0.5))
    return np.array(marginal + joint)


STATIONARY = ("reflection, relativistic", "reflection, student-t")  # uniform data in a box
WITH_DATA = [name for name, entry in FLOWS.items() if entry.data is not None]


@functools.cache
def drawn_at(name, fraction):
    entry = FLOWS[name]
    with jax.enable_x64(True):
        flow = entry.build()
        # Optimal transport only permutes the noise of a batch, in a time that grows as the cube of its rows.
        size = 125 if isinstance(flow.coupling, hf.MinibatchOTCoupling) else DRAWS
        data, draw = entry.data(np.random.default_rng(5), DRAWS), eqx.filter_jit(flow.sample_state)
        times = jnp.full((size,), fraction * flow.horizon, float)
        keys = [jr.key(6)] if size == DRAWS else jr.split(jr.key(6), DRAWS // size)
        batches = [draw(key, rows, times).position for key, rows in zip(keys, np.split(data, len(keys)), strict=True)]
        return flow.prior, np.concatenate([np.asarray(rows) for rows in batches])


@pytest.mark.parametrize("name", WITH_DATA)
def test_law_at_the_horizon_is_the_prior(name):
    p_values = misfits(*drawn_at(name, 1.0))
    assert p_values.min() > FALSE_ALARM / p_values.size


@pytest.mark.parametrize("name", [n for n in WITH_DATA if n not in STATIONARY])
def test_law_before_the_horizon_is_not_the_prior(name):
    """The test above can fail: a fifth of the way it must."""
    p_values = misfits(*drawn_at(name, 0.2))
    assert p_values.min() < FALSE_ALARM / p_values.size
