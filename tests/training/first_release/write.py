"""How the checkpoint beside this was written, by hamflow 0.1.0; never to be run again: it must load for ever.

    python tests/training/first_release/write.py tests/training/first_release

Three steps down a constant slope, so that `test_first_release.py` can say what is in it in closed form.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hamflow.training import Checkpoints, ExponentialMovingAverage, init_state, make_step

SLOPE = (1.0, 2.0, 4.0, 8.0)
OPTIMIZER = optax.sgd(0.5, momentum=0.5)


def start():
    """The model before the first step."""
    return {"layers": [jnp.arange(4.0), jnp.asarray([0.5], jnp.bfloat16)], "count": jnp.arange(3), "name": "first"}


def trainable():
    return {"layers": [True, False], "count": False, "name": False}


def loss(model, batch, key):
    return jnp.dot(model["layers"][0], jnp.asarray(SLOPE)), {}


if __name__ == "__main__":
    ema = ExponentialMovingAverage(halflife_images=2, rampup_ratio=None)
    step = make_step(loss, OPTIMIZER, ema, trainable=trainable())
    state, key = init_state(start(), OPTIMIZER, trainable=trainable()), jax.random.key(11)
    for _ in range(3):
        state, _ = step(state, np.zeros(2, np.float32), key)
    with Checkpoints(f"{sys.argv[1]}/checkpoints") as checkpoints:
        checkpoints.save(state, key, {"seed": 5})
