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


def make_flow(name: str, data_std: float, data_mean: float) -> Flow:
    """The flow of that name, for data of that deviation and mean.

    `module:flow` is a `Flow`, or a function that returns one: of nothing, or of the deviation and the mean.
    """
    match name:
        case "oscillation":
            return oscillation(frequency=1.0 / data_std)  # its scalings are then all trivial
        case "diffusion":
            return diffusion(data_std=data_std, data_mean=data_mean)
        case "flow-matching":
            return flow_matching()
        case "reflection":
            return reflection(lower=-1.0, upper=1.0)
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
