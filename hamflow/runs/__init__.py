"""Runs: whole trainings, from the data to a folder of results. `hamflow train` and the examples start here.

A recipe is a frozen dataclass that says what a run is; `train` is the loop that all of them share. Needs the `examples`
extra.
"""

from hamflow.runs.command import command_line as command_line
from hamflow.runs.export import export as export
from hamflow.runs.named import RECIPES as RECIPES
from hamflow.runs.options import Options as Options
from hamflow.runs.pictures import Pictures as Pictures
from hamflow.runs.points import Points as Points
from hamflow.runs.recipe import (
    AbstractRecipe as AbstractRecipe,
    AbstractTask as AbstractTask,
    Problem as Problem,
)
from hamflow.runs.train import train as train
