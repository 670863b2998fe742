"""What happens every so many steps."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Every:
    """Every so many steps, counted from the first of the run; never, with 0."""

    steps: int

    def is_due(self, num_steps: int) -> bool:
        """After so many steps."""
        return self.steps > 0 and num_steps % self.steps == 0
