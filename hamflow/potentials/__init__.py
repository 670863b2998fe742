"""Potentials and forces: what pushes."""

from .base import AbstractForce as AbstractForce, AbstractPotential as AbstractPotential
from .combined import (
    ScaledForce as ScaledForce,
    ScaledPotential as ScaledPotential,
    SumForce as SumForce,
    SumPotential as SumPotential,
    TemperedPotential as TemperedPotential,
    TimeDependentForce as TimeDependentForce,
    TimeDependentPotential as TimeDependentPotential,
)
from .function import FunctionPotential as FunctionPotential
from .harmonic import HarmonicPotential as HarmonicPotential
from .learned import NetworkForce as NetworkForce, NetworkPotential as NetworkPotential
from .mechanics import (
    DoubleWellPotential as DoubleWellPotential,
    FPUTPotential as FPUTPotential,
    HenonHeilesPotential as HenonHeilesPotential,
    KeplerPotential as KeplerPotential,
    MuellerBrownPotential as MuellerBrownPotential,
    PendulumPotential as PendulumPotential,
    QuarticPotential as QuarticPotential,
)
from .mixture import GaussianMixturePotential as GaussianMixturePotential
from .particles import (
    LennardJonesPotential as LennardJonesPotential,
    remove_centre_of_mass as remove_centre_of_mass,
)
from .zero import ZeroPotential as ZeroPotential
