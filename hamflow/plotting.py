"""Pictures: densities in the plane, phase portraits, loss curves. Needs the `plot` extra (matplotlib)."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ._paths import as_path
from ._types import Array, Float, PRNGKeyArray
from .flow import Flow

DATA, PRIOR, PATH = "#d1495b", "#30638e", "#8d99ae"  # data red, prior blue, in every picture


def density(ax: Axes, points: Float[Array | np.ndarray, "n 2"], extent: float, *, bins: int = 120) -> None:
    """A histogram of points in the plane on [-extent, extent]^2, white where there are none.

    Args:
        ax: matplotlib axes.
        points: of shape `(n, 2)`.
        extent: half the side of the picture, in the unit of the points.
        bins: cells a side.
    """
    points = np.asarray(points)
    edges = np.linspace(-extent, extent, bins + 1)
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=[edges, edges])
    colours = matplotlib.colormaps["magma_r"].with_extremes(under="white")
    top = max(float(np.quantile(counts[counts > 0], 0.995)) if (counts > 0).any() else 1.0, 1.0)
    ax.imshow(counts.T, extent=(-extent, extent, -extent, extent), origin="lower", cmap=colours, vmin=0.5, vmax=top)
    ax.set(xticks=[], yticks=[], aspect="equal")


def phase_portrait(
    ax: Axes, flow: Flow, data: Float[Array, "batch"], key: PRNGKeyArray, *, num_paths: int = 60, num_times: int = 100
) -> None:
    """Position against velocity of one-dimensional data: where states start (red), their paths, where they end (blue).

    Args:
        ax: matplotlib axes.
        flow: of positions of shape `()`.
        data: positions of shape `(batch,)`.
        key: a jax key for the first momenta.
        num_paths: how many of the paths are drawn.
        num_times: points a path.
    """
    first = flow.sample_state(key, data, jnp.zeros_like(data))
    times = jnp.linspace(0.0, float(flow.horizon), num_times)
    paths = jax.vmap(lambda state: flow.trajectory(state, times))(first)
    velocities = jax.vmap(jax.vmap(flow.velocity), (0, None))(paths, times)
    x, v = np.asarray(paths.position), np.asarray(velocities)
    ax.plot(x[:num_paths].T, v[:num_paths].T, color=PATH, linewidth=0.6, alpha=0.6, zorder=1)
    ax.scatter(x[:, 0], v[:, 0], s=3, color=DATA, zorder=2, label="t = 0, data")
    ax.scatter(x[:, -1], v[:, -1], s=3, color=PRIOR, zorder=3, label="t = T, prior")
    ax.set(xlabel="position x", ylabel="velocity v")


def loss_curve(ax: Axes, images: Sequence[float | int], losses: Sequence[float | int], *, smooth: int = 50) -> None:
    """A loss against images seen, pale, with its running mean over `smooth` points."""
    x, y = np.asarray(images, float), np.asarray(losses, float)
    ax.plot(x, y, color=PATH, linewidth=0.5, alpha=0.6)
    width = min(smooth, max(len(y) // 4, 1))
    if len(y) >= width:
        mean = np.convolve(y, np.ones(width) / width, mode="valid")
        ax.plot(x[width - 1 :], mean, color=PRIOR, linewidth=1.5, label=f"mean of {width}")
        ax.legend(frameon=False)
    ax.set(xlabel="images seen", ylabel="loss", yscale="log")


def label_panels(axes: Iterable[Axes], titles: Iterable[str]) -> None:
    """A title over each panel."""
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title, fontsize=10)


def save_figure(figure: Figure, path: str | os.PathLike[str], *, dpi: int = 120) -> Path:
    """Write a PNG: beside it first and renamed when whole, so that a picture is never half-written."""
    path = as_path(path)
    part = path.with_name(f".{path.name}.part")
    figure.savefig(part, dpi=dpi, format="png", bbox_inches="tight", facecolor="white")
    os.replace(part, path)
    return path
