"""The flow that a recipe names: one of the library's for data of this size, or one of the user's own."""

import inspect

from .._lookup import look_up
from ..flow import Flow
from ..recipes import diffusion, flow_matching, oscillation, reflection

NAMES = ("oscillation", "diffusion", "flow-matching", "reflection")


def check_flow(name: str) -> None:
    """Raise `ValueError` for what is no name of a flow, before any data are opened."""
    if name not in NAMES and ":" not in name:
        raise ValueError(f"--flow {name}: give {', '.join(NAMES)}, or module:flow for one of your own.")
    if ":" in name:
        look_up(name, Flow)


def make_flow(name: str, data_std: float, data_mean: float, bounds: tuple[float, float] | None = None) -> Flow:
    """The flow of that name, for data of that deviation and mean.

    `bounds` are the walls of a reflection, around data in any unit; the other flows then take the unit of the data too.
    Without them the data are pixels in [-1, 1], whose flows have fixed sizes. `module:flow` is a `Flow`, or a function
    that returns one: of nothing, or of the deviation and the mean.
    """
    match name:
        case "oscillation":
            return oscillation(frequency=1.0 / data_std)  # its scalings are then all trivial
        case "diffusion":  # EDM's horizon is 80 for a deviation of one half
            horizon = 80.0 if bounds is None else 160.0 * data_std
            return diffusion(horizon, data_std=data_std, data_mean=data_mean)
        case "flow-matching":
            return flow_matching() if bounds is None else flow_matching(data_std)
        case "reflection":
            lower, upper = (-1.0, 1.0) if bounds is None else bounds
            return reflection(lower, upper, 1.5 * (upper - lower))
    flow = look_up(name, Flow)
    if not isinstance(flow, Flow) and callable(flow):
        arguments = (data_std, data_mean) if len(inspect.signature(flow).parameters) == 2 else ()
        try:
            flow = flow(*arguments)
        except Exception as error:  # it is the user's
            raise ValueError(f"--flow {name} raises {type(error).__name__}: {error}") from error
    if not isinstance(flow, Flow):
        raise ValueError(f"--flow {name} is a {type(flow).__name__}: it must be a hamflow.Flow, or return one.")
    return flow
