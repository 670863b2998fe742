"""Integrators: how a system without a closed form is followed, step by step."""

from .base import AbstractIntegrator as AbstractIntegrator
from .composition import (
    AbstractSplitting as AbstractSplitting,
    BlanesMoan4 as BlanesMoan4,
    Leapfrog as Leapfrog,
    McLachlan2 as McLachlan2,
    Splitting as Splitting,
    Suzuki4 as Suzuki4,
    SymplecticEuler as SymplecticEuler,
    Yoshida4 as Yoshida4,
    Yoshida6 as Yoshida6,
    Yoshida8 as Yoshida8,
)
from .implicit import ImplicitMidpoint as ImplicitMidpoint
from .integrate import Trajectory as Trajectory, integrate as integrate
