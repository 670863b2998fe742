"""A library's messages in the words of a command line."""

import re
from collections.abc import Mapping


def in_flags(message: str, flags: Mapping[str, str]) -> str:
    """`message` with the names of arguments replaced by the flags that set them; paths are left alone.

    ```python
    in_flags("try resolution=64", {"resolution": "--resolution"})    # "try --resolution 64"
    ```
    """
    for words, flag in flags.items():
        name = rf"(?<![\w/.-]){re.escape(words)}(?![\w/])(=?)(?=(\w?))"

        def said(match: re.Match[str], flag: str = flag) -> str:
            return f"{flag} " if match[1] and match[2] else flag

        message = re.sub(name, said, message)
    return message
