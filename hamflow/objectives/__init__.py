"""Objectives: what training minimises, and at which times."""

from .time_laws import (
    AbstractTimeLaw as AbstractTimeLaw,
    LogitNormalTime as LogitNormalTime,
    LogNormalNoise as LogNormalNoise,
    UniformTime as UniformTime,
)
from .velocity_matching import velocity_matching_loss as velocity_matching_loss
