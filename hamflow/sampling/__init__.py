"""Sampling: drawing from a law, by following a velocity predictor, by a bath, by accepting and rejecting."""

from .encode import encode as encode
from .few_step import FewStep as FewStep
from .few_step_fit import FewStepFit as FewStepFit, fit_few_step as fit_few_step
from .generate import generate as generate
from .grids import (
    cosine_grid as cosine_grid,
    log_snr_grid as log_snr_grid,
    rho_grid as rho_grid,
    uniform_grid as uniform_grid,
)
from .guidance import EnergyGuided as EnergyGuided, Guided as Guided, painted as painted
from .langevin import langevin as langevin, langevin_state as langevin_state, langevin_terms as langevin_terms
from .likelihood import (
    LikelihoodEstimate as LikelihoodEstimate,
    bits_per_dimension as bits_per_dimension,
    dequantize as dequantize,
    log_likelihood as log_likelihood,
    log_likelihood_and_error as log_likelihood_and_error,
)
from .mcmc import BlackjaxTarget as BlackjaxTarget, to_blackjax as to_blackjax
from .multistep import DDIM as DDIM, DPMSolver2M as DPMSolver2M
from .reflow import ReflowCoupling as ReflowCoupling
from .samplers import AbstractSampler as AbstractSampler, Euler as Euler, Heun as Heun, Walk as Walk
from .stochastic import Churn as Churn, ReverseSDE as ReverseSDE
from .unipc import UniPC as UniPC
