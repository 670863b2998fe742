"""Potentials and forces: what pushes."""

from .base import AbstractForce as AbstractForce, AbstractPotential as AbstractPotential
from .harmonic import HarmonicPotential as HarmonicPotential
from .mixture import GaussianMixturePotential as GaussianMixturePotential
from .zero import ZeroPotential as ZeroPotential
