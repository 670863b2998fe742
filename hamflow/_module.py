"""The base of what a user subclasses: abstract or final, and final at run time too.

hamflow asks for the type of an object to choose a closed form (a Gaussian kinetic energy moves freely in a straight
line). A subclass that changed a method would keep the type and lose the formula in silence, so it is refused.
"""

import equinox as eqx


class AbstractModule(eqx.Module):
    """An `eqx.Module` that cannot be subclassed, or lose a method, where `typing.final` says so."""

    def __init_subclass__(cls, **kwargs) -> None:
        super().__init_subclass__(**kwargs)
        for base in cls.__mro__[1:]:
            if vars(base).get("__final__", False):
                abstract = next(b.__name__ for b in base.__mro__[1:] if b.__name__.startswith("Abstract"))
                raise TypeError(
                    f"{cls.__name__} cannot be a subclass of {base.__name__}: hamflow's closed forms are for exactly "
                    f"that class, and another method would make them wrong. Subclass hamflow.{abstract}"
                )
            for name in vars(cls):
                if getattr(vars(base).get(name), "__final__", False):
                    raise TypeError(f"{cls.__name__}.{name} replaces a method of {base.__name__} that is final")
