"""Sampling: drawing from a law, by following a velocity predictor, by a bath, by accepting and rejecting."""

from .generate import generate as generate
from .grids import rho_grid as rho_grid
from .langevin import langevin as langevin, langevin_state as langevin_state, langevin_terms as langevin_terms
from .mcmc import BlackjaxTarget as BlackjaxTarget, to_blackjax as to_blackjax
