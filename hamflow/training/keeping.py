"""Which checkpoints are kept: the latest, every so many steps, the best."""

import json
import math
import pathlib
import types
from collections.abc import Sequence
from typing import Any

from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    BestN,
    EveryNSteps,
    LatestN,
    PreservationContext,
    PreservationPolicy,
)


def preservation_policy(
    keep: int,
    keep_every: int | None,
    keep_best: int,
    metric: str,
    higher_is_better: bool,
    metrics: dict[int, dict[str, Any]],
) -> Any:
    """Orbax's `PreservationPolicy` for what `Checkpoints` is asked for; `metrics`, by step, is read as it decides."""
    policies: list[PreservationPolicy] = [LatestN(keep)]
    if keep_every is not None:
        policies.append(EveryNSteps(keep_every))
    if keep_best:
        policies.append(_Best(metrics, metric, higher_is_better, keep_best))
    return AnyPreservationPolicy(policies)


class _Best:
    """Orbax's policy, on metrics that lie in the position, so that the checksums of an item cover them."""

    def __init__(self, metrics: dict[int, dict[str, Any]], metric: str, higher_is_better: bool, number: int):
        self._metrics, self._metric, self._sign = metrics, metric, 1.0 if higher_is_better else -1.0
        self._best = BestN(get_metric_fn=self._goodness, n=number, keep_checkpoints_without_metrics=False)

    def _goodness(self, metrics: Any) -> float:
        value = metrics[self._metric]
        return self._sign * value if isinstance(value, float | int) else -math.inf

    def should_preserve(self, checkpoints: Sequence[Any], *, context: PreservationContext) -> Sequence[bool]:
        known = [self._metrics.get(each.step, {}) for each in checkpoints]
        infos: list[Any] = [
            types.SimpleNamespace(step=each.step, time=each.time, metrics=found if self._metric in found else None)
            for each, found in zip(checkpoints, known, strict=True)
        ]
        wanted = self._best.should_preserve(infos, context=context)  # all of them, where there are no more than `n`
        return [keep and info.metrics is not None for keep, info in zip(wanted, infos, strict=True)]


def saved_metrics(folder: pathlib.Path) -> dict[int, dict[str, Any]]:
    """The metrics of the checkpoints in a folder, those that can be read."""
    found = {}
    for path in folder.glob("*/position/metadata"):
        try:
            metrics = json.loads(path.read_bytes()).get("metrics")
        except (OSError, ValueError, AttributeError):
            continue  # damaged: `restore` says so
        if path.parent.parent.name.isdecimal() and isinstance(metrics, dict):
            found[int(path.parent.parent.name)] = metrics
    return found
