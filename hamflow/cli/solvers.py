"""Samplers by name. A new one is a line in `SAMPLERS`."""

import difflib
import inspect
from collections.abc import Callable

import diffrax

from ..sampling import DDIM, AbstractSampler, Churn, DPMSolver2M, Euler, Heun, ReverseSDE, UniPC
from ..sampling.velocity_field import require_ordinary

SAMPLERS: dict[str, Callable[[], AbstractSampler]] = {
    "heun": Heun,
    "euler": Euler,
    "ddim": DDIM,
    "dpm2m": DPMSolver2M,
    "unipc": UniPC,
    "sde": ReverseSDE,
    "churn": Churn,
}


def find_solver(name: str) -> AbstractSampler | diffrax.AbstractSolver:
    """The sampler `heun`, `ddim`, ..., or the diffrax solver `diffrax.Tsit5`, with its usual settings.

    Raises:
        ValueError: no such name, with those there are.
    """
    if name.lower() in SAMPLERS:
        return SAMPLERS[name.lower()]()
    solvers = _of_diffrax()
    bare = name.removeprefix("diffrax.")
    if bare in solvers:
        return solvers[bare]()
    close = difflib.get_close_matches(bare, solvers, n=3) or ["Tsit5", "Dopri5", "Kvaerno5"]
    raise ValueError(
        f"--solver {name} is not known: there are {', '.join(SAMPLERS)}, and diffrax's solvers by name, such as "
        f"{', '.join(f'diffrax.{solver}' for solver in close)}"
    )


def _of_diffrax() -> dict[str, Callable[[], diffrax.AbstractSolver]]:
    """Those for one ordinary differential equation that need no arguments."""
    found = {}
    for name, cls in vars(diffrax).items():
        if not (isinstance(cls, type) and issubclass(cls, diffrax.AbstractSolver)) or inspect.isabstract(cls):
            continue
        try:
            require_ordinary(cls())
        except (TypeError, ValueError):  # arguments that are missing, or another kind of equation
            continue
        found[name] = cls
    return found
