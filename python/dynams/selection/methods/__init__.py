"""Strategies: how what is known of the samples becomes the choice of those to train on.

Every method is a plain function of tensors, for any loop, and around it a small frozen object behind one
of two interfaces, `Strategy` (of epochs) and `BatchStrategy` (inside a training step), which
`dynams.selection.build_strategy` makes by name. The names load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynams._lazy import lazy_names

if TYPE_CHECKING:
    from dynams.selection.methods.alignprune import AlignPrune as AlignPrune
    from dynams.selection.methods.alignprune import LossTrajectories as LossTrajectories
    from dynams.selection.methods.alignprune import loss_alignment as loss_alignment
    from dynams.selection.methods.craig import Craig as Craig
    from dynams.selection.methods.craig import craig_subset as craig_subset
    from dynams.selection.methods.difficulty import EL2N as EL2N
    from dynams.selection.methods.difficulty import GraNd as GraNd
    from dynams.selection.methods.difficulty import Loss as Loss
    from dynams.selection.methods.difficulty import hardest as hardest
    from dynams.selection.methods.difficulty import (
        last_layer_gradient_norm as last_layer_gradient_norm,
    )
    from dynams.selection.methods.forgetting import Forgetting as Forgetting
    from dynams.selection.methods.forgetting import ForgettingEvents as ForgettingEvents
    from dynams.selection.methods.glister import Glister as Glister
    from dynams.selection.methods.glister import glister_subset as glister_subset
    from dynams.selection.methods.gradmatch import BatchGradMatch as BatchGradMatch
    from dynams.selection.methods.gradmatch import GradMatch as GradMatch
    from dynams.selection.methods.gradmatch import gradmatch_batches as gradmatch_batches
    from dynams.selection.methods.gradmatch import gradmatch_subset as gradmatch_subset
    from dynams.selection.methods.importance import BatchImportance as BatchImportance
    from dynams.selection.methods.importance import Importance as Importance
    from dynams.selection.methods.importance import batch_increment as batch_increment
    from dynams.selection.methods.importance import importance_batch as importance_batch
    from dynams.selection.methods.importance import importance_sample as importance_sample
    from dynams.selection.methods.in_batch import BatchLoss as BatchLoss
    from dynams.selection.methods.in_batch import BatchMargin as BatchMargin
    from dynams.selection.methods.in_batch import Filter as Filter
    from dynams.selection.methods.in_batch import hardest_mask as hardest_mask
    from dynams.selection.methods.in_batch import smallest_margins_mask as smallest_margins_mask
    from dynams.selection.methods.infobatch import InfoBatch as InfoBatch
    from dynams.selection.methods.infobatch import infobatch_subset as infobatch_subset
    from dynams.selection.methods.margin import Margin as Margin
    from dynams.selection.methods.margin import StaticMargin as StaticMargin
    from dynams.selection.methods.margin import smallest_margins as smallest_margins
    from dynams.selection.methods.memorisation import Memorisation as Memorisation
    from dynams.selection.methods.memorisation import memorisation_scores as memorisation_scores
    from dynams.selection.methods.orderdp import OrderDP as OrderDP
    from dynams.selection.methods.orderdp import orderdp_subset as orderdp_subset
    from dynams.selection.methods.ranked import largest as largest
    from dynams.selection.methods.ranked import smallest as smallest
    from dynams.selection.methods.reducible import BatchRhoLoss as BatchRhoLoss
    from dynams.selection.methods.reducible import RhoLoss as RhoLoss
    from dynams.selection.methods.reducible import rho_loss as rho_loss
    from dynams.selection.methods.repb import RePB as RePB
    from dynams.selection.methods.repb import repb_subset as repb_subset
    from dynams.selection.methods.selective_backprop import SelectiveBackprop as SelectiveBackprop
    from dynams.selection.methods.selective_backprop import (
        selective_backprop_mask as selective_backprop_mask,
    )
    from dynams.selection.methods.seta import SeTa as SeTa
    from dynams.selection.methods.seta import loss_groups as loss_groups
    from dynams.selection.methods.seta import seta_subset as seta_subset
    from dynams.selection.methods.uncertainty import Confidence as Confidence
    from dynams.selection.methods.uncertainty import Entropy as Entropy
    from dynams.selection.methods.uncertainty import least_certain as least_certain
    from dynams.selection.methods.uniform import Full as Full
    from dynams.selection.methods.uniform import Random as Random
    from dynams.selection.methods.uniform import StaticRandom as StaticRandom
    from dynams.selection.methods.uniform import random_subset as random_subset
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "alignprune": "AlignPrune LossTrajectories loss_alignment",
            "craig": "Craig craig_subset",
            "difficulty": "EL2N GraNd Loss hardest last_layer_gradient_norm",
            "forgetting": "Forgetting ForgettingEvents",
            "glister": "Glister glister_subset",
            "gradmatch": "BatchGradMatch GradMatch gradmatch_batches gradmatch_subset",
            "importance": "BatchImportance Importance batch_increment importance_batch "
            "importance_sample",
            "in_batch": "BatchLoss BatchMargin Filter hardest_mask smallest_margins_mask",
            "infobatch": "InfoBatch infobatch_subset",
            "margin": "Margin StaticMargin smallest_margins",
            "memorisation": "Memorisation memorisation_scores",
            "orderdp": "OrderDP orderdp_subset",
            "ranked": "largest smallest",
            "reducible": "BatchRhoLoss RhoLoss rho_loss",
            "repb": "RePB repb_subset",
            "selective_backprop": "SelectiveBackprop selective_backprop_mask",
            "seta": "SeTa loss_groups seta_subset",
            "uncertainty": "Confidence Entropy least_certain",
            "uniform": "Full Random StaticRandom random_subset",
        },
    )
