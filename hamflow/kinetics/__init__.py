"""Kinetic energies: what moves. The momentum law is p ~ exp(-K(p))."""

from .base import AbstractKinetic as AbstractKinetic
from .gaussian import GaussianKinetic as GaussianKinetic
from .relativistic import RelativisticKinetic as RelativisticKinetic
from .student_t import StudentTKinetic as StudentTKinetic
