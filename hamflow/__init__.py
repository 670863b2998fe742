"""hamflow: Hamiltonian mechanics as generative models, in JAX and Equinox.

`import hamflow as hf`. Import order is reading order: what pushes, what moves, where, how it starts, and the flow.
"""

from .state import PhaseState as PhaseState
from .kinetics import (
    AbstractKinetic as AbstractKinetic,
    GaussianKinetic as GaussianKinetic,
    RelativisticKinetic as RelativisticKinetic,
    StudentTKinetic as StudentTKinetic,
)
from .domains import AbstractDomain as AbstractDomain, Box as Box, Euclidean as Euclidean, Torus as Torus
from .propagators import (
    AbstractLinearPropagator as AbstractLinearPropagator,
    AbstractPropagator as AbstractPropagator,
    AbstractSolvable as AbstractSolvable,
)
from .potentials import (
    AbstractForce as AbstractForce,
    AbstractPotential as AbstractPotential,
    DoubleWellPotential as DoubleWellPotential,
    FPUTPotential as FPUTPotential,
    FunctionPotential as FunctionPotential,
    GaussianMixturePotential as GaussianMixturePotential,
    HarmonicPotential as HarmonicPotential,
    HenonHeilesPotential as HenonHeilesPotential,
    KeplerPotential as KeplerPotential,
    LennardJonesPotential as LennardJonesPotential,
    MuellerBrownPotential as MuellerBrownPotential,
    NetworkForce as NetworkForce,
    NetworkPotential as NetworkPotential,
    PendulumPotential as PendulumPotential,
    QuarticPotential as QuarticPotential,
    ScaledForce as ScaledForce,
    ScaledPotential as ScaledPotential,
    SumForce as SumForce,
    SumPotential as SumPotential,
    TemperedPotential as TemperedPotential,
    TimeDependentForce as TimeDependentForce,
    TimeDependentPotential as TimeDependentPotential,
    ZeroPotential as ZeroPotential,
    remove_centre_of_mass as remove_centre_of_mass,
)
from .system import (
    AbstractSeparableSystem as AbstractSeparableSystem,
    AbstractSystem as AbstractSystem,
    ForcedSystem as ForcedSystem,
    Hamiltonian as Hamiltonian,
    NonSeparableHamiltonian as NonSeparableHamiltonian,
)
from .energies import (
    AbstractEnergy as AbstractEnergy,
    MagneticEnergy as MagneticEnergy,
    RiemannianEnergy as RiemannianEnergy,
)
from .priors import (
    NormalPrior as NormalPrior,
    Prior as Prior,
    ScaledPrior as ScaledPrior,
    StudentTPrior as StudentTPrior,
    UniformPrior as UniformPrior,
)
from .couplings import (
    AbstractAffineCoupling as AbstractAffineCoupling,
    AbstractConditionalCoupling as AbstractConditionalCoupling,
    AbstractCoupling as AbstractCoupling,
    CondOTCoupling as CondOTCoupling,
    GibbsCoupling as GibbsCoupling,
    IndependentCoupling as IndependentCoupling,
    StudentTCoupling as StudentTCoupling,
)
from .optimal_transport import MinibatchOTCoupling as MinibatchOTCoupling
from .integrators import (
    AbstractIntegrator as AbstractIntegrator,
    AbstractSplitting as AbstractSplitting,
    BlanesMoan4 as BlanesMoan4,
    ImplicitMidpoint as ImplicitMidpoint,
    Leapfrog as Leapfrog,
    McLachlan2 as McLachlan2,
    Splitting as Splitting,
    Suzuki4 as Suzuki4,
    SymplecticEuler as SymplecticEuler,
    Trajectory as Trajectory,
    Yoshida4 as Yoshida4,
    Yoshida6 as Yoshida6,
    Yoshida8 as Yoshida8,
    integrate as integrate,
)
from .schedules import (
    AbstractSchedule as AbstractSchedule,
    Schedule as Schedule,
    VarianceExploding as VarianceExploding,
    VariancePreserving as VariancePreserving,
)
from .noise_scale import AbstractNoiseScale as AbstractNoiseScale
from .flow import Flow as Flow
from .recipes import (
    diffusion as diffusion,
    flow_matching as flow_matching,
    oscillation as oscillation,
    poisson_flow as poisson_flow,
    reflection as reflection,
    whitened_oscillation as whitened_oscillation,
)
from .schedule_change import RescheduledVelocity as RescheduledVelocity, reschedule as reschedule
from .predictors import MixtureVelocity as MixtureVelocity, Preconditioned as Preconditioned
from .conversions import Converted as Converted, convert as convert
from .objectives import (
    AbstractTimeLaw as AbstractTimeLaw,
    Discrepancy as Discrepancy,
    GapVelocity as GapVelocity,
    LinearFeatures as LinearFeatures,
    LogitNormalTime as LogitNormalTime,
    LogNormalNoise as LogNormalNoise,
    ShortTimeVelocity as ShortTimeVelocity,
    UniformTime as UniformTime,
    WaveFeatures as WaveFeatures,
    denoising_hamiltonian_score_matching_loss as denoising_hamiltonian_score_matching_loss,
    denoising_score_matching_loss as denoising_score_matching_loss,
    drop_labels as drop_labels,
    explicit_score_matching_loss as explicit_score_matching_loss,
    hamiltonian_score_discrepancy as hamiltonian_score_discrepancy,
    hamiltonian_score_matching_loss as hamiltonian_score_matching_loss,
    implicit_score_matching_loss as implicit_score_matching_loss,
    sliced_score_matching_loss as sliced_score_matching_loss,
    velocity_matching_loss as velocity_matching_loss,
)
from .fitted_prior import FittedPrior as FittedPrior, fit_prior as fit_prior
from .sampling import (
    DDIM as DDIM,
    AbstractSampler as AbstractSampler,
    BlackjaxTarget as BlackjaxTarget,
    Churn as Churn,
    DPMSolver2M as DPMSolver2M,
    EnergyGuided as EnergyGuided,
    Euler as Euler,
    FewStep as FewStep,
    FewStepFit as FewStepFit,
    Guided as Guided,
    Heun as Heun,
    LikelihoodEstimate as LikelihoodEstimate,
    ReflowCoupling as ReflowCoupling,
    ReverseSDE as ReverseSDE,
    UniPC as UniPC,
    Walk as Walk,
    bits_per_dimension as bits_per_dimension,
    cosine_grid as cosine_grid,
    dequantize as dequantize,
    encode as encode,
    fit_few_step as fit_few_step,
    generate as generate,
    langevin as langevin,
    langevin_state as langevin_state,
    langevin_terms as langevin_terms,
    log_likelihood as log_likelihood,
    log_likelihood_and_error as log_likelihood_and_error,
    log_snr_grid as log_snr_grid,
    painted as painted,
    rho_grid as rho_grid,
    to_blackjax as to_blackjax,
    uniform_grid as uniform_grid,
)
from .conformance import Finding as Finding, Report as Report, check as check
from . import networks as networks
from .serialization import load as load, save as save

__version__ = "0.1.0"
