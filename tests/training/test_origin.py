"""Planted numbers that are not finite: each is found where it was planted."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hamflow.training import find_origin

KEY = jax.random.key(0)
X = np.linspace(-1.0, 1.0, 12, dtype=np.float32).reshape(4, 3)


class Network(eqx.Module):
    """Three layers of three numbers, with an activation and what is done to the activations of each layer."""

    layers: list[eqx.nn.Linear]
    between: tuple = eqx.field(static=True)

    def __init__(self, *between):
        self.layers = [eqx.nn.Linear(3, 3, key=key) for key in jax.random.split(KEY, 3)]
        self.between = between or (jnp.tanh, jnp.tanh, jnp.tanh)

    def __call__(self, x):
        for layer, between in zip(self.layers, self.between, strict=True):
            x = between(layer(x))
        return x


def loss(model, batch, key):
    return jnp.mean(jax.vmap(model)(batch["x"]) ** 2), {}


def find(model, loss=loss, x=X, **options):
    return find_origin(loss, model, {"x": x, "index": np.arange(4)}, KEY, **options)


def test_all_is_finite():
    assert find(Network()) is None


def test_in_the_data():
    x = X.copy()
    x[2, 1] = np.nan
    origin = find(Network(), x=x)
    assert (origin.where, origin.primitive, origin.given) == ("loss", None, "batch['x']")
    assert "It was so before the first operation: 1 nan of 12 numbers in batch['x']." in str(origin)


def test_in_a_parameter():
    model = eqx.tree_at(lambda m: m.layers[1].weight, Network(), jnp.ones((3, 3)).at[0, 0].set(jnp.inf))
    origin = find(model)
    # tanh(inf) = 1 hides it from the loss; in the gradient it meets the derivative of tanh there, 0.
    assert (origin.where, origin.given, origin.numbers) == ("gradient", ".layers[1].weight", "1 inf of 9 numbers")
    model = eqx.tree_at(lambda m: m.layers[1].weight, Network(), jnp.ones((3, 3)).at[0, 0].set(jnp.nan))
    origin = find(model)
    assert origin.given == ".layers[1].weight"
    assert origin.numbers == "1 nan of 9 numbers"


def identity(x):
    return x


def test_an_overflow_in_a_layer():
    """1e30 times 1e30 in the third: not in the second, whose numbers are large and finite."""
    model = Network(identity, identity, identity)
    for i in (1, 2):
        model = eqx.tree_at(lambda m, i=i: m.layers[i].weight, model, jnp.full((3, 3), 1e30))
    origin = find(model)
    assert (origin.where, origin.primitive, origin.parameter) == ("loss", "dot_general", ".layers[2].weight")
    assert "inf" in origin.numbers
    assert "_linear.py" in origin.source


def log_of_square_less_one(x):
    return jnp.log(x**2 - 1.0)


def test_an_operation_behind_a_layer():
    """|tanh| < 1, so the logarithm is that of a negative number."""
    origin = find(Network(jnp.tanh, lambda x: log_of_square_less_one(jnp.tanh(x)), jnp.tanh))
    assert (origin.where, origin.primitive) == ("loss", "log")
    assert origin.parameter in (".layers[1].weight", ".layers[1].bias")
    assert "test_origin.py" in origin.source
    assert "log_of_square_less_one" in origin.source
    assert str(origin).startswith(
        "The loss is not finite. The first number that went wrong: 12 nan of 12 numbers out of log"
    )


def with_own_derivative(function):
    wrapped = jax.custom_jvp(function)
    wrapped.defjvps(lambda tangent, result, x: tangent)
    return wrapped


@pytest.mark.parametrize(
    "wrap",
    [
        jax.jit,
        jax.checkpoint,
        with_own_derivative,
        lambda f: jax.jit(jax.checkpoint(jax.jit(f))),
        lambda f: lambda x: jax.lax.cond(x.sum() > 1e9, identity, f, x),
        lambda f: lambda x: jax.lax.fori_loop(0, 2, lambda i, x: f(x), x),
        lambda f: lambda x: jax.lax.while_loop(lambda c: c[0] < 1, lambda c: (c[0] + 1, f(c[1])), (0, x))[1],
    ],
    ids=["jit", "checkpoint", "custom_jvp", "nested", "cond", "scan or while", "while"],
)
def test_inside_of_what_is_compiled(wrap):
    """vmap makes a select of a cond with an example's condition; here there is one example."""
    inner = wrap(lambda x: log_of_square_less_one(jnp.tanh(x)))

    def one(model, batch, key):
        return jnp.sum(model(batch["x"][0])), {}

    origin = find(Network(jnp.tanh, inner, jnp.tanh), one)
    assert origin.primitive == "log"
    assert "log_of_square_less_one" in origin.source
    assert origin.parameter.startswith(".layers[1].")


def test_inside_of_a_scan_over_layers():
    """Four layers that add their bias: 1, -1 and then the logarithm of 0 in the third (index 2)."""
    biases = jnp.asarray([1.0, 1.0, -2.0, 1.0])

    def scanned(model, batch, key):
        def layer(x, bias):
            return jnp.log(jnp.exp(x) + bias), x

        last, all = jax.lax.scan(layer, jnp.zeros(()), model["bias"])
        return last + all.sum(), {}

    # e^0 + 1 = 2; e^log 2 + 1 = 3; e^log 3 - 2 = 1; e^log 1 + 1 = 2: finite. Then with -4 in the third: log(-1).
    assert find({"bias": biases}, scanned) is None
    origin = find({"bias": biases.at[2].set(-4.0)}, scanned)
    assert (origin.primitive, origin.parameter) == ("log", "['bias'][2]")


def test_only_in_the_gradient():
    """The root of a square that is 0: its derivative is 1/(2 0) times 2 0."""
    model = eqx.tree_at(lambda m: (m.layers[1].weight, m.layers[1].bias), Network(), replace_fn=lambda a: a * 0)

    def length(x):
        return jnp.broadcast_to(jnp.sqrt(jnp.sum(x**2)), (3,))

    model = eqx.tree_at(lambda m: m.layers, Network(jnp.tanh, length, jnp.tanh), model.layers)
    assert np.isfinite(loss(model, {"x": X}, KEY)[0])
    origin = find(model)
    assert origin.where == "gradient"
    assert origin.primitive in ("div", "rsqrt", "pow", "mul")
    assert origin.source.endswith("length)")
    assert origin.parameter.startswith(".layers[1].")
    # What is not trained has no gradient: without the first two layers all is finite.
    last = eqx.tree_at(lambda m: m.layers[2], jax.tree.map(lambda _: False, model), replace_fn=lambda _: True)
    assert find(model, trainable=last) is None


def test_a_gradient_whose_norm_overflows():
    """Each entry is finite, and its square is not: the norm is what the step looks at."""

    def steep(model, batch, key):
        return jnp.sum(model["w"]) * 1e25, {}

    origin = find({"w": jnp.zeros(2)}, steep)
    assert origin.where == "gradient"
    assert origin.numbers == "2 inf of 2 numbers"


def test_a_mask_is_not_blamed():
    """Minus infinity where it belongs, and a logarithm of 0 elsewhere, in another layer."""

    def masked(model, batch, key):
        h = jax.vmap(model.layers[0])(batch["x"])
        weights = jax.nn.softmax(jnp.where(jnp.tri(4, dtype=bool), h @ h.T, -jnp.inf))
        h = jax.vmap(model.layers[1])(weights @ h)
        return jnp.mean(jnp.log(h * 0.0)), {}

    origin = find(Network(), masked)
    assert (origin.primitive, origin.numbers) == ("log", "12 inf of 12 numbers")
    assert origin.parameter.startswith(".layers[1].")


def test_a_row_that_is_masked_as_a_whole_is():
    def masked(model, batch, key):
        h = jax.vmap(model.layers[0])(batch["x"])
        return jnp.mean(jax.nn.softmax(jnp.where(jnp.tri(4, k=-1, dtype=bool), h @ h.T, -jnp.inf))), {}

    origin = find(Network(), masked)
    assert origin.primitive == "select_n"
    assert origin.source.endswith("masked)")
