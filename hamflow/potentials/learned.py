"""What pushes, learned: a network as an energy, or as a force.

An energy costs a gradient more and conserves; a bare force is freer, and has no energy. Any callable Module is a
network here. Its arrays are leaves, so `eqx.filter_grad` reaches them through an energy, a force or a whole trajectory.
"""

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax.numpy as jnp

from .._types import Array, Float, Scalar, ScalarLike
from .base import AbstractForce, AbstractPotential
from .function import as_callable, as_energy, require_dtype


@final
class NetworkPotential(AbstractPotential):
    """U(x) = network(x), or U(t, x) = network(t, x): the force is -grad U, by automatic differentiation.

    Args:
        network: a callable `eqx.Module` from one position to a scalar or to shape `(1,)`, in the position's dtype.
            Where it takes other shapes than the position's, let it reshape inside.
        time_dependent: call it as `network(t, x)`, t a scalar in the position's dtype.

    Raises:
        TypeError: a network that cannot be called; an energy of another dtype than the position.
        ValueError: an energy that is not one number.

    The network must be smooth: with ReLU the force jumps, and integrators lose their order there.

    Example:
        ```python
        network = eqx.nn.MLP(2, "scalar", 64, 2, activation=jax.nn.softplus, key=key)
        system = hf.Hamiltonian(hf.NetworkPotential(network), hf.GaussianKinetic())
        ```
    """

    network: Callable[..., Any]
    time_dependent: bool = eqx.field(static=True)

    def __init__(self, network: Callable[..., Any], *, time_dependent: bool = False):
        self.network, self.time_dependent = as_callable(network, "network"), bool(time_dependent)

    def energy(self, t: ScalarLike, position: Float[Array, "*event"]) -> Scalar:
        value = _call(self.network, self.time_dependent, t, position)
        return as_energy(value, position, _name(self.network), one_element=True)


@final
class NetworkForce(AbstractForce):
    """F(x) = network(x), or F(t, x) = network(t, x): a force that need not be a gradient.

    Args:
        network: a callable `eqx.Module` from one position to an array of the same shape and dtype.
        time_dependent: call it as `network(t, x)`, t a scalar in the position's dtype.

    Raises:
        TypeError: a network that cannot be called; a force of another dtype than the position.
        ValueError: a force of another shape than the position.

    Example:
        ```python
        network = eqx.nn.MLP(2, 2, 64, 2, key=key)
        system = hf.ForcedSystem(hf.NetworkForce(network), hf.GaussianKinetic())
        ```
    """

    network: Callable[..., Any]
    time_dependent: bool = eqx.field(static=True)

    def __init__(self, network: Callable[..., Any], *, time_dependent: bool = False):
        self.network, self.time_dependent = as_callable(network, "network"), bool(time_dependent)

    def force(self, t: ScalarLike, position: Float[Array, "*event"]) -> Float[Array, "*event"]:
        value = _call(self.network, self.time_dependent, t, position)
        if jnp.shape(value) != position.shape:
            raise ValueError(
                f"{_name(self.network)} returned shape {jnp.shape(value)} for one position of shape {position.shape}; "
                "a force has the position's shape"
            )
        require_dtype(getattr(value, "dtype", None), position, _name(self.network))
        return jnp.asarray(value, position.dtype)


def _call(network: Callable[..., Any], time_dependent: bool, t: ScalarLike, position: Array) -> Any:
    return network(jnp.asarray(t, position.dtype), position) if time_dependent else network(position)


def _name(network: Any) -> str:
    return f"the network ({type(network).__name__})"
