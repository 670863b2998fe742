"""All pictures of a source, once and in order, in batches: what is measured, not trained on."""

from collections.abc import Iterator

import numpy as np

from hamflow._types import checked
from hamflow.data.images import AbstractImages
from hamflow.data.loader import Batch


@checked
def batches_in_order(source: AbstractImages, batch_size: int) -> Iterator[Batch]:
    """Yield every picture once, as `batches` does: `"image"`, `"index"` and `"label"` where there are labels.

    The last batch is shorter where the numbers do not divide. Raises `ValueError` for a batch size below 1.

        held_out_loss = training.HeldOutLoss(loss, list(batches_in_order(held_out, 64)), key)
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be 1 or more.")

    def read() -> Iterator[Batch]:
        for start in range(0, len(source), batch_size):
            indices = np.arange(start, min(start + batch_size, len(source)), dtype=np.int32)
            batch = {"image": np.stack([source.read(int(i)) for i in indices]), "index": indices}
            if source.labels is not None:
                batch["label"] = source.labels[indices]
            yield batch

    return read()
