"""Any function as a potential: the door to other libraries."""

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._types import Array, Float, Scalar, ScalarLike
from .base import AbstractPotential


@final
class StaticFunction(eqx.Module):
    """A plain function as a part of a module: compared by identity, no leaf, so that `jax.grad` and `jax.jit` pass."""

    function: Callable[..., Any] = eqx.field(static=True)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def as_callable(function: Any, name: str) -> Callable[..., Any]:
    """What a module may hold and call: a Module (or any pytree) as it is, with its arrays; a plain function static."""
    if isinstance(function, type) or not callable(function):
        raise TypeError(f"{name} must be callable, a function or an eqx.Module, got {function!r}")
    if jax.tree.leaves(function) != [function]:  # a pytree with leaves of its own, or none
        return function
    try:
        hash(function)
    except TypeError:
        raise TypeError(
            f"{name} is a {type(function).__name__}, which cannot be hashed: use a function, or make it an eqx.Module"
        ) from None
    return StaticFunction(function)


def as_energy(value: Any, position: Array, name: str, *, one_element: bool = False) -> Scalar:
    """What `name` returned for one position as an energy: a scalar in the position's dtype, else an error.

    With `one_element` an array of shape (1,), the last layer of most networks, will do.
    """
    shape, dtype = jnp.shape(value), getattr(value, "dtype", None)
    if shape == (1,) and one_element:
        value = value[0]
    elif shape != ():
        allowed = "a scalar or shape (1,)" if one_element else "a scalar: sum over the coordinates"
        raise ValueError(
            f"{name} returned shape {shape} for one position of shape {position.shape}; an energy is {allowed}"
        )
    require_dtype(dtype, position, name)
    return jnp.asarray(value, position.dtype)


def require_dtype(dtype: Any, position: Array, name: str) -> None:
    """Raise `TypeError` unless `dtype` is the position's; None, a Python number's, is every one."""
    if dtype is not None and dtype != position.dtype:
        raise TypeError(
            f"{name} returned {dtype} for a position of {position.dtype}: cast its parameters or the data, so that "
            "both have one precision"
        )


@final
class FunctionPotential(AbstractPotential):
    """U(x) = function(x, **fixed), for an energy function from anywhere.

    Args:
        function: called as `function(position, **fixed)` on one position, returning a scalar of the position's dtype.
            A Module is kept with its arrays, which then have gradients. Any other callable is static: it is compared
            by identity, so build it once (a new lambda compiles again), and arrays that it closes over are constants.
        **fixed: arguments by name. Floating arrays are leaves with gradients and take the position's dtype; numbers
            stay Python numbers; anything else is handed on.

    Raises:
        TypeError: a function that cannot be called or hashed; an energy of another dtype than the position.
        ValueError: an energy that is not one number.

    Example:
        Energy functions of jax-md are functions of the positions `(n, d)`:

        ```python
        displacement, shift = jax_md.space.free()
        energy = jax_md.energy.soft_sphere_pair(displacement, alpha=2.5)
        system = hf.Hamiltonian(hf.FunctionPotential(energy, sigma=jnp.array(1.1)), hf.GaussianKinetic())
        ```

        In a periodic box (`jax_md.space.periodic`) add `hf.Torus(0.0, side)` as the domain. A neighbour list is one
        more argument by name, `neighbor=neighbors`, and as fixed as the others: it must cover the whole motion.
    """

    function: Callable[..., Any]
    fixed: dict[str, Any]

    def __init__(self, function: Callable[..., Any], /, **fixed: Any):
        self.function = as_callable(function, "function")
        self.fixed = jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf, fixed)

    def energy(self, t: ScalarLike, position: Float[Array, "*event"]) -> Scalar:
        fixed = jax.tree.map(
            lambda leaf: leaf.astype(position.dtype) if eqx.is_inexact_array(leaf) else leaf, self.fixed
        )
        return as_energy(self.function(position, **fixed), position, "the function of a FunctionPotential")
