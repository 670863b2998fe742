"""What several processes must know of each other in every step, told along with the step so that nobody waits for it.

A process that stopped alone would leave the others in the sums over all devices, for ever. So each sends a number with
every step, the devices find the largest, and all read it some steps later, when it is there already.
"""

from typing import final

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hamflow.training.mesh import AXES
from hamflow.training.sharding import replicated

_MAX_BYTES = 2000


@final
class LargestOfAll:
    """The largest of the numbers that the processes send. All send equally often, or those that sent more wait.

    ```python
    largest = LargestOfAll(mesh)
    sent = largest.send(1)     # starts
    largest.read(sent)         # waits
    ```
    """

    def __init__(self, mesh: Mesh):
        self._alone = jax.process_count() == 1
        self._rows = NamedSharding(mesh, PartitionSpec(AXES))
        self._num_local = len(mesh.local_devices)
        self._largest = jax.jit(jnp.max, out_shardings=replicated(mesh))

    def send(self, number: int) -> int | jax.Array:
        """Send a number of this process, and return what `read` takes, at once."""
        if self._alone:
            return number
        mine = np.full(self._num_local, number, np.int32)
        return self._largest(jax.make_array_from_process_local_data(self._rows, mine))

    def read(self, sent: int | jax.Array) -> int:
        """The largest number that was sent with this one. In one process it is that one."""
        return int(np.asarray(sent))


def words_of_all(words: str) -> list[str]:
    """What each process says, by its index, cut to 2000 bytes. All must call it, and wait for each other."""
    padded = np.zeros(_MAX_BYTES, np.uint8)
    said = np.frombuffer(words.encode()[:_MAX_BYTES], np.uint8)
    padded[: said.size] = said
    rows = np.asarray(multihost_utils.process_allgather(padded), np.uint8).reshape(-1, _MAX_BYTES)
    return [bytes(row).rstrip(b"\0").decode("utf-8", "ignore") for row in rows]
