"""Objectives: what training minimises, and at which times; and the discrepancy, which measures any score."""

from .denoising_hamiltonian import (
    denoising_hamiltonian_score_matching_loss as denoising_hamiltonian_score_matching_loss,
)
from .discrepancy import Discrepancy as Discrepancy, hamiltonian_score_discrepancy as hamiltonian_score_discrepancy
from .features import LinearFeatures as LinearFeatures, WaveFeatures as WaveFeatures
from .hamiltonian_score import hamiltonian_score_matching_loss as hamiltonian_score_matching_loss
from .label_dropout import drop_labels as drop_labels
from .score_matching import (
    denoising_score_matching_loss as denoising_score_matching_loss,
    explicit_score_matching_loss as explicit_score_matching_loss,
    implicit_score_matching_loss as implicit_score_matching_loss,
    sliced_score_matching_loss as sliced_score_matching_loss,
)
from .short_time import GapVelocity as GapVelocity, ShortTimeVelocity as ShortTimeVelocity
from .time_laws import (
    AbstractTimeLaw as AbstractTimeLaw,
    LogitNormalTime as LogitNormalTime,
    LogNormalNoise as LogNormalNoise,
    UniformTime as UniformTime,
)
from .velocity_matching import velocity_matching_loss as velocity_matching_loss
