"""Sampling: following a velocity predictor from the prior to the data."""

from .generate import generate as generate
from .grids import rho_grid as rho_grid
