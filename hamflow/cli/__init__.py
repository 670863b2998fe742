"""The command `hamflow`: measure a flow, draw from a trained model, ask it how likely data are, look at data.

A command is one file with `add_to(commands)`, which declares its flags, and `run(options)`, which returns the status.
"""

from .command import main as main
