"""Where in its data a training is, in numbers that do not mention devices, processes or threads."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from hamflow._types import checked


@dataclasses.dataclass(frozen=True)
class DataPosition:
    """The place in an endless stream of examples, each epoch of which is a permutation of all of them.

    - `seed`: of the order.
    - `step`: how many batches were taken.
    - `batch_size`: examples in a batch, over all devices and processes.
    - `num_examples`: how many there are, over all processes.

    The next batch is examples step batch_size, ..., (step + 1) batch_size - 1 of the stream (see `hamflow.data`). So
    any number of devices or processes goes on from here, with no example lost and none seen twice.

    ```python
    position = DataPosition(seed=0, step=int(state.step), batch_size=64, num_examples=len(source))
    checkpoints.save(state, key, position.to_json())
    ...
    state, key, saved = checkpoints.restore(state, key)
    dataclasses.replace(position, step=int(state.step)).check(saved)
    ```
    """

    seed: int
    step: int
    batch_size: int
    num_examples: int

    def __post_init__(self):
        for name, least in {"seed": 0, "step": 0, "batch_size": 1, "num_examples": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be {least} or more.")

    @property
    def epoch(self) -> int:
        """How many times all examples were seen."""
        return self.step * self.batch_size // self.num_examples

    def to_json(self) -> dict[str, Any]:
        """What is written with a checkpoint: `{"data": {"seed": ..., "epoch": ..., "step": ..., ...}}`."""
        return {"data": {**dataclasses.asdict(self), "epoch": self.epoch}}

    @checked
    def check(self, saved: Mapping[str, Any], *, allow: Collection[str] = ()) -> None:
        """Raise `ValueError` unless a run that was saved there goes on here with the example that comes next.

        `saved` is what `Checkpoints.restore` returns; a checkpoint without a data position, as those of the first
        release are, passes. `allow` names fields that may differ: with another `seed` or `num_examples` the order is
        another from here on, so some examples of this epoch come twice and some not at all.
        """
        data = saved.get("data")
        if not isinstance(data, Mapping):
            return
        then, now = data.get("batch_size", self.batch_size), self.batch_size
        if then != now and "batch_size" not in allow:
            raise ValueError(
                f"The checkpoint of step {data.get('step')} was trained in batches of {then}, and this run has batches "
                f"of {now}: a step would be another place in the data. Resume with batches of {then}, or start a new "
                "run. (On another number of devices the batch over all of them stays the same.)"
            )
        for name, words in {"step": "was saved after step", "seed": "has the seed", "num_examples": "is of"}.items():
            then, now = data.get(name, getattr(self, name)), getattr(self, name)
            if then != now and name not in allow:
                what = " examples" if name == "num_examples" else ""
                raise ValueError(
                    f"The checkpoint {words} {then}{what}, and this run {words} {now}{what}: "
                    "the order of the data would change. Resume with what the run had, or start a new one."
                )
