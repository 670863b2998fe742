"""What a trained model on the disk says about itself: its flow, the shape of one example, its classes."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from .._paths import as_path
from ..flow import Flow
from ..predictors import MixtureVelocity
from ..serialization import load


class Trained(NamedTuple):
    """A velocity predictor and what may be asked of it."""

    path: Path
    predictor: Any
    flow: Flow
    shape: tuple[int, ...]
    num_classes: int | None  # None where it takes no classes

    def require_label(self, label: int | str | None) -> None:
        """`ValueError`, naming `--class`, for a class that the model does not have."""
        if label is None:
            return
        if self.num_classes is None:
            raise ValueError(f"--class {label}: {self.path} was trained without classes; leave out --class")
        if isinstance(label, int) and label >= self.num_classes:
            raise ValueError(
                f"--class {label}: {self.path} has the classes 0 to {self.num_classes - 1} (and null, which is none)"
            )


def open_trained(where: str, flag: str, shape: Sequence[int] | None, trust: Sequence[str]) -> Trained:
    """Open a run folder, or a file of `hamflow.save`.

    Args:
        where: the folder, which holds `model.safetensors`, or the file.
        flag: which names it, for the errors.
        shape: of one example, where the model cannot say; checked where it can.
        trust: modules of the user's that the file may name, looked for in the working directory too.

    Raises:
        ValueError, OSError: what is wrong with the flag or the file, and what to do.
    """
    path = as_path(where)
    if path.is_dir():
        if not (path / "model.safetensors").exists():
            raise FileNotFoundError(
                f"{flag} {where}: no model.safetensors is in that folder. A run writes it when it ends: go on with "
                "`--resume`, or give the folder of another run, or a .safetensors file"
            )
        path = path / "model.safetensors"
    if trust:
        sys.path.insert(0, str(Path.cwd()))
    try:
        predictor = load(path, trust=tuple(trust))
    except (ValueError, OSError) as error:
        hint = "; for a class or a function of your own give --trust MODULE" if "trust" in str(error) else ""
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(f"{flag} {where}: {str(error).rstrip('.')}{hint}") from None
    flow = getattr(predictor, "flow", None)
    if not callable(predictor) or not isinstance(flow, Flow):
        raise ValueError(
            f"{flag} {where}: {path.name} holds a {type(predictor).__name__}, no predictor with its flow: save a "
            "hamflow.Preconditioned"
        )
    known = _shape(predictor)
    if shape is not None and known is not None and tuple(shape) != known:
        raise ValueError(f"--shape {_words(shape)}: the examples of {path} have shape {_words(known)}; leave it out")
    event = known if known is not None else shape
    if event is None:
        raise ValueError(f"{path} does not say what shape one example has: give --shape, such as --shape 3 32 32")
    trained = Trained(path, predictor, flow, tuple(event), _num_classes(predictor))
    _try(trained, flag)
    return trained


def _shape(predictor: Any) -> tuple[int, ...] | None:
    """Of one example, where a network or a mean tells."""
    network = getattr(predictor, "network", None)
    for name in ("image_shape", "event_shape"):
        if isinstance(getattr(network, name, None), tuple):
            return getattr(network, name)
    if isinstance(predictor, MixtureVelocity):
        return jnp.shape(predictor.mixture.means)[1:]
    return jnp.shape(getattr(predictor, "data_mean", 0.0)) or None


def _num_classes(predictor: Any) -> int | None:
    network = getattr(predictor, "network", None)
    embedding = getattr(getattr(network, "embedding", None), "condition", None)
    return getattr(embedding, "num_classes", getattr(network, "num_classes", None))


def _try(trained: Trained, flag: str) -> None:
    """Ask for one velocity, without computing it: what does not fit is said before anything is drawn."""
    x = jax.ShapeDtypeStruct(trained.shape, jnp.result_type(float))
    try:
        eqx.filter_eval_shape(lambda x: trained.predictor(trained.flow.horizon, x, None, None), x)
    except Exception as error:  # the network is the user's
        said = " ".join(str(error).partition("\n\n")[0].split())
        raise ValueError(
            f"{flag} {trained.path}: no velocity of an example of shape {_words(trained.shape)} can be had ({said}); "
            "if the shape is wrong, give --shape"
        ) from None


def _words(shape: Sequence[int]) -> str:
    return " ".join(map(str, shape)) or "()"
