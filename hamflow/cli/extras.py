"""What a command imports only when it is run, and what to install where it is not there."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def needs(command: str, extra: str) -> Iterator[None]:
    """Around the imports of a command: `ModuleNotFoundError` that names the extra of hamflow which has the package."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "hamflow":
            raise
        raise ModuleNotFoundError(f"hamflow {command} needs {error.name}: pip install 'hamflow[{extra}]'") from None
