"""Run by `test_placed_states.py` on eight pretend devices: states made in their places, and what they are, as JSON."""

import json
import sys

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

import equinox as eqx  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from hamflow import training  # noqa: E402

ADAM = optax.adam(0.1)
MESHES = {f"{data} x {fsdp}": training.device_mesh(data=data, fsdp=fsdp) for data, fsdp in ((1, 8), (2, 4), (8, 1))}


def make_model():
    """All kinds of leaves: split by the rule or left whole, of weak type, NumPy's, keys, and what is no array."""
    rng = np.random.default_rng(0)
    return {
        "w": jnp.asarray(rng.normal(size=(256, 128)), jnp.float32),
        "half": jnp.asarray(rng.normal(size=(64, 128)), jnp.bfloat16),
        "bias": jnp.asarray(rng.normal(size=7), jnp.float32),
        "weak": jnp.asarray(2.0),
        "large and weak": jnp.full(8192, 3.0),
        "numpy": rng.normal(size=(128, 64)).astype(np.float32),
        "counts": np.arange(16_000, dtype=np.int32),
        "scalar": np.float32(0.5),
        "keys": jax.random.split(jax.random.key(1), 2),
        "function": jnp.tanh,
        "python": 2.0,
        "none": None,
    }


def bits(leaf):
    leaf = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    return np.asarray(leaf).tobytes()


def described(tree):
    """All there is to an array; what is no array as it is."""
    return [
        (
            type(leaf).__name__,
            bits(leaf),
            str(leaf.dtype),
            leaf.shape,
            getattr(leaf, "weak_type", None),
            str(leaf.sharding),
        )
        if isinstance(leaf, jax.Array)
        else leaf
        for leaf in jax.tree.leaves(tree)
    ]


def same_values():
    """For each mesh, whether the state is that which is made whole and then split."""
    found = {}
    for name, mesh in MESHES.items():
        whole = training.init_state(make_model(), ADAM, num_averages=2)
        where = training.state_sharding(whole, mesh)
        split = training.shard(whole, where)
        placed = training.init_state(make_model(), ADAM, num_averages=2, mesh=mesh)
        assert jax.tree.structure(placed) == jax.tree.structure(split)
        assert training.state_sharding(placed, mesh) == where
        found[name] = described(placed) == described(split)
        places = zip(jax.tree.leaves(eqx.filter(placed, eqx.is_array)), jax.tree.leaves(where), strict=True)
        assert all(leaf.sharding.is_equivalent_to(place, leaf.ndim) for leaf, place in places)
    return found


def loss(model, batch, key):
    return jnp.sum(model["w"] ** 2) + jnp.sum(model["bias"] ** 2), {}


def the_model_survives():
    """The step overwrites its state; the model it was made of, whatever it was, is as it was."""
    found = {}
    for name, mesh in MESHES.items():
        step = None
        for kind in ("one device", "in its place", "everywhere", "numpy"):
            model = {"w": jnp.ones((128, 64)), "bias": jnp.ones(3)}
            where = training.state_sharding(model, mesh)
            if kind == "in its place":
                model = training.shard(model, where)
            if kind == "everywhere":
                model = training.replicate(model, mesh)
            if kind == "numpy":
                model = jax.tree.map(np.array, model)
            state = training.init_state(model, ADAM, mesh=mesh)
            if step is None:
                step = training.make_step(loss, ADAM, sharding=training.state_sharding(state, mesh))
            for _ in range(2):
                state, _ = step(state, np.ones(8, np.float32), jax.random.key(0))
            moved = bool(np.all(np.asarray(state.model["w"]) < 0.9))
            found[f"{name}, {kind}"] = moved and all(bool(np.all(np.asarray(x) == 1)) for x in jax.tree.leaves(model))
    return found


def bytes_of_devices():
    """What each device holds now."""
    held = {device.id: 0 for device in jax.devices()}
    for array in jax.live_arrays():
        for device in array.sharding.device_set:
            held[device.id] += int(np.prod(array.sharding.shard_shape(array.shape))) * array.dtype.itemsize
    return list(held.values())


def memory(make):
    """The bytes of each device while the optimiser's state is made, and when all is; of the programs' own as well."""
    looks, programs, jit = [], [], jax.jit

    def watched(params):
        looks.append(bytes_of_devices())
        return ADAM.init(params)

    def watched_jit(function, **options):
        def call(*arguments):
            found = jit(function, **options).lower(*arguments).compile().memory_analysis()
            programs.append(found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes)
            return jit(function, **options)(*arguments)

        return call if "out_shardings" in options else jit(function, **options)

    optimizer = optax.GradientTransformation(watched, ADAM.update)
    before = bytes_of_devices()
    model = {"w": jnp.ones((1024, 1024)), "v": jnp.ones((1024, 512)), "bias": jnp.ones(100)}
    jax.jit = watched_jit
    try:
        state = make(model, optimizer)
    finally:
        jax.jit = jit
    looks.append(bytes_of_devices())
    assert len(jax.tree.leaves(state)) == 4 * 3 + 4  # with the count of Adam; and the state is alive up to here
    return {
        "model": sum(leaf.nbytes for leaf in jax.tree.leaves(model)),
        "held": np.subtract(looks, [before] * len(looks)).tolist(),
        "programs": programs,
    }


mesh = MESHES["1 x 8"]
found = {
    "same": same_values(),
    "survives": the_model_survives(),
    "whole": memory(lambda model, optimizer: training.init_state(model, optimizer)),
    "placed": memory(lambda model, optimizer: training.init_state(model, optimizer, mesh=mesh)),
}
json.dump(found, sys.stdout)
