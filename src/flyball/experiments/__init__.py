"""Pure statistics: fixed and sequential tests, power, trust, Bayes, policies, rankings, and whole experiments.

`fb.experiments.welch_t(treatment, control)` and its neighbours are functions of arrays or of what sums them up, and
answer treatment less control. Names load on first use: most tests need scipy, and a worker needs none of them.

Rooms: `fixed` looks once, `sequential` at every look, `power` before the first; `trust` judges the instrument;
`policy` allocates and judges policies; `ranking` compares rankings; `design` holds a whole experiment. One word for one
thing in all of them: `level` is the confidence of an interval or a plan, `alpha` the error of a check or a rule;
`alternative` is what a test looks for, `direction` which way is good; `rng` is where draws come from, `runs` counts
simulated experiments and `resamples` draws from one sample.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "AADesign": "design.aa",
    "AATest": "trust.aa",
    "Allocation": "policy.bandits",
    "Alternative": "estimate",
    "AlwaysValid": "sequential.always_valid",
    "ArmComparison": "fixed.arms",
    "ArmComparisons": "fixed.arms",
    "ArmData": "design.types",
    "Belief": "design.belief",
    "BetaPosterior": "bayes",
    "Betting": "sequential.betting",
    "Bootstrap": "policy.ope",
    "Bounds": "sequential.confidence",
    "Check": "trust.check",
    "ChiSquare": "fixed.proportions",
    "Clusters": "power.clusters",
    "Comparison": "design.result",
    "Correction": "fixed.multiple",
    "Count": "fixed.shares",
    "Diagnostics": "policy.logs",
    "Duration": "power.duration",
    "Estimate": "estimate",
    "Experiment": "design.types",
    "Exposure": "trust.exposure",
    "Finding": "design.result",
    "GroupDesign": "sequential.group",
    "GroupTrial": "sequential.trial",
    "Heterogeneity": "trust.heterogeneity",
    "Hypergeometric": "sequential.hypergeometric",
    "Impact": "design.result",
    "Influence": "trust.outliers",
    "Interleaving": "ranking.interleaving",
    "Interval": "estimate",
    "Kind": "design.metric",
    "Look": "design.rulers",
    "MarginTest": "fixed.margins",
    "MarginVerdict": "fixed.margins",
    "MeanPrior": "bayes",
    "Metric": "design.metric",
    "Moments": "stats",
    "Msprt": "sequential.msprt",
    "Novelty": "trust.novelty",
    "OddsProcess": "sequential.odds",
    "Outcome": "design.result",
    "Plan": "design.plans",
    "PolicyLog": "policy.logs",
    "PolicyValue": "policy.ope",
    "Posterior": "bayes",
    "PowerPlan": "power.plan",
    "PreferenceProcess": "ranking.preference",
    "QueryScores": "ranking.metrics",
    "RandomisedBetting": "sequential.randomised",
    "Rankings": "ranking.metrics",
    "Rate": "fixed.counts",
    "RatioProcess": "trust.srm",
    "Result": "design.result",
    "Role": "design.metric",
    "Scale": "estimate",
    "Sensitivity": "ranking.sensitivity",
    "SequentialPlan": "power.sequential",
    "Simpson": "trust.simpson",
    "Stats": "stats",
    "Stopping": "power.sequential",
    "StudentPosterior": "bayes",
    "Tails": "tails",
    "Team": "ranking.interleaving",
    "TrustReport": "trust.check",
    "Verdict": "trust.check",
    "Winner": "policy.bandits",
    "Winsorised": "fixed.winsor",
    "aa_design": "design.aa",
    "aa_split": "trust.aa",
    "aa_test": "trust.aa",
    "allocate": "policy.bandits",
    "analyze": "design.analysis",
    "analyze_table": "design.tables",
    "arms_of_table": "design.tables",
    "average_precision": "ranking.metrics",
    "balanced_interleaving": "ranking.interleaving",
    "benjamini_hochberg": "fixed.multiple",
    "beta_posterior": "bayes",
    "betting_difference": "sequential.betting",
    "bonferroni": "fixed.multiple",
    "bootstrap": "fixed.resampling",
    "chi_square": "fixed.proportions",
    "choose": "policy.bandits",
    "clipped_ips": "policy.ope",
    "clopper_pearson": "fixed.shares",
    "cohens_d": "fixed.sizes",
    "cohens_h": "fixed.sizes",
    "compare_arms": "fixed.arms",
    "credible_difference": "bayes",
    "credit": "ranking.interleaving",
    "cuped": "fixed.covariates",
    "difference": "sequential.confidence",
    "direct_method": "policy.ope",
    "doubly_robust": "policy.ope",
    "dunnett": "fixed.arms",
    "duration": "power.duration",
    "duration_table": "power.duration",
    "e_to_p": "sequential.always_valid",
    "epsilon_greedy": "policy.bandits",
    "equivalence": "fixed.margins",
    "evaluate_policy": "policy.ope",
    "exact_power": "power.proportions",
    "expected_loss": "bayes",
    "exposure": "trust.exposure",
    "exposure_of": "trust.exposure",
    "fisher_exact": "fixed.exact",
    "group_design": "sequential.group",
    "hedges_g": "fixed.sizes",
    "heterogeneity": "trust.heterogeneity",
    "holm": "fixed.multiple",
    "influence": "trust.outliers",
    "influence_of": "trust.outliers",
    "interleaving_sensitivity": "ranking.sensitivity",
    "inverted": "trust.inversion",
    "ips": "policy.ope",
    "mann_whitney": "fixed.ranks",
    "mean_bounds": "sequential.confidence",
    "mean_difference_sequence": "sequential.mixture",
    "mean_log_e": "sequential.always_valid",
    "mean_posterior": "bayes",
    "mean_sequence": "sequential.mixture",
    "msprt": "sequential.msprt",
    "ndcg": "ranking.metrics",
    "newcombe": "fixed.proportions",
    "non_inferiority": "fixed.margins",
    "novelty": "trust.novelty",
    "novelty_panel": "trust.novelty",
    "odds": "sequential.odds",
    "p_to_log_e": "sequential.always_valid",
    "permutation": "fixed.resampling",
    "plan": "design.plans",
    "plan_group": "power.sequential",
    "plan_means": "power.means",
    "plan_mixture": "power.sequential",
    "plan_proportions": "power.proportions",
    "plan_ratios": "power.ratios",
    "poisson_rates": "fixed.counts",
    "pooled_t": "fixed.means",
    "post_stratified": "fixed.covariates",
    "precision_at": "ranking.metrics",
    "preference": "ranking.preference",
    "probabilistic_interleaving": "ranking.interleaving",
    "probability_best": "bayes",
    "product_log_e": "sequential.always_valid",
    "quantile_effect": "fixed.quantiles",
    "r_squared": "power.means",
    "rate_difference_sequence": "sequential.rates",
    "rate_lower": "sequential.confidence",
    "rate_upper": "sequential.confidence",
    "ratio_e_value": "trust.srm",
    "ratio_metric": "fixed.ratios",
    "recall_at": "ranking.metrics",
    "reciprocal_rank": "ranking.metrics",
    "relative_effect": "fixed.ratios",
    "render_experiment": "design.report",
    "reward_table": "policy.ope",
    "running_p": "sequential.always_valid",
    "sample_ratio": "design.instrument",
    "simpson": "trust.simpson",
    "simulate_odds": "power.sequential",
    "snips": "policy.ope",
    "srm_test": "trust.srm",
    "switch_dr": "policy.ope",
    "team_draft": "ranking.interleaving",
    "thompson": "policy.bandits",
    "two_proportions_z": "fixed.proportions",
    "twyman": "trust.twyman",
    "ucb1": "policy.bandits",
    "weekday_effects": "trust.heterogeneity",
    "welch_t": "fixed.means",
    "wilson": "fixed.shares",
    "winsorise": "fixed.winsor",
    "won": "policy.bandits",
}

__all__ = [*sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    from flyball.errors import nearest

    close = nearest(name, __all__)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise AttributeError(f"module 'flyball.experiments' has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from flyball.experiments.bayes import BetaPosterior as BetaPosterior
    from flyball.experiments.bayes import MeanPrior as MeanPrior
    from flyball.experiments.bayes import Posterior as Posterior
    from flyball.experiments.bayes import StudentPosterior as StudentPosterior
    from flyball.experiments.bayes import beta_posterior as beta_posterior
    from flyball.experiments.bayes import credible_difference as credible_difference
    from flyball.experiments.bayes import expected_loss as expected_loss
    from flyball.experiments.bayes import mean_posterior as mean_posterior
    from flyball.experiments.bayes import probability_best as probability_best
    from flyball.experiments.design.aa import AADesign as AADesign
    from flyball.experiments.design.aa import aa_design as aa_design
    from flyball.experiments.design.analysis import analyze as analyze
    from flyball.experiments.design.belief import Belief as Belief
    from flyball.experiments.design.instrument import sample_ratio as sample_ratio
    from flyball.experiments.design.metric import Kind as Kind
    from flyball.experiments.design.metric import Metric as Metric
    from flyball.experiments.design.metric import Role as Role
    from flyball.experiments.design.plans import Plan as Plan
    from flyball.experiments.design.plans import plan as plan
    from flyball.experiments.design.report import render_experiment as render_experiment
    from flyball.experiments.design.result import Comparison as Comparison
    from flyball.experiments.design.result import Finding as Finding
    from flyball.experiments.design.result import Impact as Impact
    from flyball.experiments.design.result import Outcome as Outcome
    from flyball.experiments.design.result import Result as Result
    from flyball.experiments.design.rulers import Look as Look
    from flyball.experiments.design.tables import analyze_table as analyze_table
    from flyball.experiments.design.tables import arms_of_table as arms_of_table
    from flyball.experiments.design.types import ArmData as ArmData
    from flyball.experiments.design.types import Experiment as Experiment
    from flyball.experiments.estimate import Alternative as Alternative
    from flyball.experiments.estimate import Estimate as Estimate
    from flyball.experiments.estimate import Interval as Interval
    from flyball.experiments.estimate import Scale as Scale
    from flyball.experiments.fixed.arms import ArmComparison as ArmComparison
    from flyball.experiments.fixed.arms import ArmComparisons as ArmComparisons
    from flyball.experiments.fixed.arms import compare_arms as compare_arms
    from flyball.experiments.fixed.arms import dunnett as dunnett
    from flyball.experiments.fixed.counts import Rate as Rate
    from flyball.experiments.fixed.counts import poisson_rates as poisson_rates
    from flyball.experiments.fixed.covariates import cuped as cuped
    from flyball.experiments.fixed.covariates import post_stratified as post_stratified
    from flyball.experiments.fixed.exact import fisher_exact as fisher_exact
    from flyball.experiments.fixed.margins import MarginTest as MarginTest
    from flyball.experiments.fixed.margins import MarginVerdict as MarginVerdict
    from flyball.experiments.fixed.margins import equivalence as equivalence
    from flyball.experiments.fixed.margins import non_inferiority as non_inferiority
    from flyball.experiments.fixed.means import pooled_t as pooled_t
    from flyball.experiments.fixed.means import welch_t as welch_t
    from flyball.experiments.fixed.multiple import Correction as Correction
    from flyball.experiments.fixed.multiple import benjamini_hochberg as benjamini_hochberg
    from flyball.experiments.fixed.multiple import bonferroni as bonferroni
    from flyball.experiments.fixed.multiple import holm as holm
    from flyball.experiments.fixed.proportions import ChiSquare as ChiSquare
    from flyball.experiments.fixed.proportions import chi_square as chi_square
    from flyball.experiments.fixed.proportions import newcombe as newcombe
    from flyball.experiments.fixed.proportions import two_proportions_z as two_proportions_z
    from flyball.experiments.fixed.quantiles import quantile_effect as quantile_effect
    from flyball.experiments.fixed.ranks import mann_whitney as mann_whitney
    from flyball.experiments.fixed.ratios import ratio_metric as ratio_metric
    from flyball.experiments.fixed.ratios import relative_effect as relative_effect
    from flyball.experiments.fixed.resampling import bootstrap as bootstrap
    from flyball.experiments.fixed.resampling import permutation as permutation
    from flyball.experiments.fixed.shares import Count as Count
    from flyball.experiments.fixed.shares import clopper_pearson as clopper_pearson
    from flyball.experiments.fixed.shares import wilson as wilson
    from flyball.experiments.fixed.sizes import cohens_d as cohens_d
    from flyball.experiments.fixed.sizes import cohens_h as cohens_h
    from flyball.experiments.fixed.sizes import hedges_g as hedges_g
    from flyball.experiments.fixed.winsor import Winsorised as Winsorised
    from flyball.experiments.fixed.winsor import winsorise as winsorise
    from flyball.experiments.policy.bandits import Allocation as Allocation
    from flyball.experiments.policy.bandits import Winner as Winner
    from flyball.experiments.policy.bandits import allocate as allocate
    from flyball.experiments.policy.bandits import choose as choose
    from flyball.experiments.policy.bandits import epsilon_greedy as epsilon_greedy
    from flyball.experiments.policy.bandits import thompson as thompson
    from flyball.experiments.policy.bandits import ucb1 as ucb1
    from flyball.experiments.policy.bandits import won as won
    from flyball.experiments.policy.logs import Diagnostics as Diagnostics
    from flyball.experiments.policy.logs import PolicyLog as PolicyLog
    from flyball.experiments.policy.ope import Bootstrap as Bootstrap
    from flyball.experiments.policy.ope import PolicyValue as PolicyValue
    from flyball.experiments.policy.ope import clipped_ips as clipped_ips
    from flyball.experiments.policy.ope import direct_method as direct_method
    from flyball.experiments.policy.ope import doubly_robust as doubly_robust
    from flyball.experiments.policy.ope import evaluate_policy as evaluate_policy
    from flyball.experiments.policy.ope import ips as ips
    from flyball.experiments.policy.ope import reward_table as reward_table
    from flyball.experiments.policy.ope import snips as snips
    from flyball.experiments.policy.ope import switch_dr as switch_dr
    from flyball.experiments.power.clusters import Clusters as Clusters
    from flyball.experiments.power.duration import Duration as Duration
    from flyball.experiments.power.duration import duration as duration
    from flyball.experiments.power.duration import duration_table as duration_table
    from flyball.experiments.power.means import plan_means as plan_means
    from flyball.experiments.power.means import r_squared as r_squared
    from flyball.experiments.power.plan import PowerPlan as PowerPlan
    from flyball.experiments.power.proportions import exact_power as exact_power
    from flyball.experiments.power.proportions import plan_proportions as plan_proportions
    from flyball.experiments.power.ratios import plan_ratios as plan_ratios
    from flyball.experiments.power.sequential import SequentialPlan as SequentialPlan
    from flyball.experiments.power.sequential import Stopping as Stopping
    from flyball.experiments.power.sequential import plan_group as plan_group
    from flyball.experiments.power.sequential import plan_mixture as plan_mixture
    from flyball.experiments.power.sequential import simulate_odds as simulate_odds
    from flyball.experiments.ranking.interleaving import Interleaving as Interleaving
    from flyball.experiments.ranking.interleaving import Team as Team
    from flyball.experiments.ranking.interleaving import balanced_interleaving as balanced_interleaving
    from flyball.experiments.ranking.interleaving import credit as credit
    from flyball.experiments.ranking.interleaving import probabilistic_interleaving as probabilistic_interleaving
    from flyball.experiments.ranking.interleaving import team_draft as team_draft
    from flyball.experiments.ranking.metrics import QueryScores as QueryScores
    from flyball.experiments.ranking.metrics import Rankings as Rankings
    from flyball.experiments.ranking.metrics import average_precision as average_precision
    from flyball.experiments.ranking.metrics import ndcg as ndcg
    from flyball.experiments.ranking.metrics import precision_at as precision_at
    from flyball.experiments.ranking.metrics import recall_at as recall_at
    from flyball.experiments.ranking.metrics import reciprocal_rank as reciprocal_rank
    from flyball.experiments.ranking.preference import PreferenceProcess as PreferenceProcess
    from flyball.experiments.ranking.preference import preference as preference
    from flyball.experiments.ranking.sensitivity import Sensitivity as Sensitivity
    from flyball.experiments.ranking.sensitivity import interleaving_sensitivity as interleaving_sensitivity
    from flyball.experiments.sequential.always_valid import AlwaysValid as AlwaysValid
    from flyball.experiments.sequential.always_valid import e_to_p as e_to_p
    from flyball.experiments.sequential.always_valid import mean_log_e as mean_log_e
    from flyball.experiments.sequential.always_valid import p_to_log_e as p_to_log_e
    from flyball.experiments.sequential.always_valid import product_log_e as product_log_e
    from flyball.experiments.sequential.always_valid import running_p as running_p
    from flyball.experiments.sequential.betting import Betting as Betting
    from flyball.experiments.sequential.betting import betting_difference as betting_difference
    from flyball.experiments.sequential.confidence import Bounds as Bounds
    from flyball.experiments.sequential.confidence import difference as difference
    from flyball.experiments.sequential.confidence import mean_bounds as mean_bounds
    from flyball.experiments.sequential.confidence import rate_lower as rate_lower
    from flyball.experiments.sequential.confidence import rate_upper as rate_upper
    from flyball.experiments.sequential.group import GroupDesign as GroupDesign
    from flyball.experiments.sequential.group import group_design as group_design
    from flyball.experiments.sequential.hypergeometric import Hypergeometric as Hypergeometric
    from flyball.experiments.sequential.mixture import mean_difference_sequence as mean_difference_sequence
    from flyball.experiments.sequential.mixture import mean_sequence as mean_sequence
    from flyball.experiments.sequential.msprt import Msprt as Msprt
    from flyball.experiments.sequential.msprt import msprt as msprt
    from flyball.experiments.sequential.odds import OddsProcess as OddsProcess
    from flyball.experiments.sequential.odds import odds as odds
    from flyball.experiments.sequential.randomised import RandomisedBetting as RandomisedBetting
    from flyball.experiments.sequential.rates import rate_difference_sequence as rate_difference_sequence
    from flyball.experiments.sequential.trial import GroupTrial as GroupTrial
    from flyball.experiments.stats import Moments as Moments
    from flyball.experiments.stats import Stats as Stats
    from flyball.experiments.tails import Tails as Tails
    from flyball.experiments.trust.aa import AATest as AATest
    from flyball.experiments.trust.aa import aa_split as aa_split
    from flyball.experiments.trust.aa import aa_test as aa_test
    from flyball.experiments.trust.check import Check as Check
    from flyball.experiments.trust.check import TrustReport as TrustReport
    from flyball.experiments.trust.check import Verdict as Verdict
    from flyball.experiments.trust.exposure import Exposure as Exposure
    from flyball.experiments.trust.exposure import exposure as exposure
    from flyball.experiments.trust.exposure import exposure_of as exposure_of
    from flyball.experiments.trust.heterogeneity import Heterogeneity as Heterogeneity
    from flyball.experiments.trust.heterogeneity import heterogeneity as heterogeneity
    from flyball.experiments.trust.heterogeneity import weekday_effects as weekday_effects
    from flyball.experiments.trust.inversion import inverted as inverted
    from flyball.experiments.trust.novelty import Novelty as Novelty
    from flyball.experiments.trust.novelty import novelty as novelty
    from flyball.experiments.trust.novelty import novelty_panel as novelty_panel
    from flyball.experiments.trust.outliers import Influence as Influence
    from flyball.experiments.trust.outliers import influence as influence
    from flyball.experiments.trust.outliers import influence_of as influence_of
    from flyball.experiments.trust.simpson import Simpson as Simpson
    from flyball.experiments.trust.simpson import simpson as simpson
    from flyball.experiments.trust.srm import RatioProcess as RatioProcess
    from flyball.experiments.trust.srm import ratio_e_value as ratio_e_value
    from flyball.experiments.trust.srm import srm_test as srm_test
    from flyball.experiments.trust.twyman import twyman as twyman
