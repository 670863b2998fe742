"""The errors of an argument: they say which argument is wrong in a field, and what to do in their text.

A command reads the field `argument` and names its own flag. It does not search the text, so a message can be reworded
without breaking a program.
"""


class ArgumentError(ValueError):
    """An argument has a value that cannot be used.

    Arguments:
        message: what is wrong, with the value; why; and what to do.
        argument: the argument's name, as in the signature of the function that was called.
    """

    argument: str

    def __init__(self, message: str, *, argument: str):
        super().__init__(message)
        self.argument = argument

    def __reduce__(self):  # an error crosses processes with its field
        return _rebuild, (type(self), str(self), self.argument)


class ArgumentTypeError(TypeError):
    """An argument has a type that cannot be used; its fields are those of `ArgumentError`."""

    argument: str

    def __init__(self, message: str, *, argument: str):
        super().__init__(message)
        self.argument = argument

    def __reduce__(self):
        return _rebuild, (type(self), str(self), self.argument)


def _rebuild(kind: type, message: str, argument: str) -> Exception:
    return kind(message, argument=argument)
