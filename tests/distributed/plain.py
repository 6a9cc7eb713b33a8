"""The loss of a step and its gradient, written plainly from what is documented: what the grid is held against.

One process, the bare model, one sample after the other, every pair by itself, all of it in one graph: no batch, no
unique ASVs, no cache, nothing of `aam.training.losses` or of the objectives. Distances and diversities come from
scikit-bio, or from the matrix that was written to the file; targets and class weights from the metadata.

Shapes: G samples of a step, A ASVs of one sample, L nucleotides, D width, T targets.
"""

import io
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import skbio
import torch
from torch import Tensor
from torch.nn import functional

from aam.data.files.sequences import sequence_keys
from aam.data.sampling.dataset import StepPlan
from aam.data.sampling.rarefaction import row_of
from aam.data.sampling.samples import Samples
from aam.data.sampling.seeded import derived_seed, text_keys, uniforms
from aam.training.tasks.masking import mask_nucleotides
from aam.workflows.fit import Run

SOFTENING = 1e-3


class Reference(NamedTuple):
    """What one process computes for a step."""

    losses: dict[str, float]
    gradient: dict[str, Tensor]


class Truth(NamedTuple):
    """What the losses of pretraining compare with."""

    distance: np.ndarray
    """[G, G]."""
    faith_pd: np.ndarray | None
    """[G]."""


def reference(run: Run, plan: StepPlan) -> Reference:
    """Compute the losses of a step, and the gradient of their sum by autograd through all of it."""
    run.model.zero_grad(set_to_none=True)
    losses = pretraining_losses(run, plan) if run.kind == "pretrain" else target_losses(run, plan)
    losses["loss"].backward()
    gradient = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in run.model.named_parameters()}
    return Reference({name: float(loss.detach()) for name, loss in losses.items()}, gradient)


def pretraining_losses(run: Run, plan: StepPlan) -> dict[str, Tensor]:
    """Nucleotides and ranks of every ASV of every sample, distances of every pair, and Faith's PD of every sample."""
    drawn = run.material.draws.rows(plan.samples, plan.epoch)
    truth = true_distances(run, plan, drawn.toarray())
    tokens, keys = run.material.nucleotides, torch.from_numpy(run.material.study.asv_keys)
    mask = mask_nucleotides(tokens, keys, run.config.masking, run.config.runtime.seed, plan.step)
    model, tau = run.model, run.model.scale.log_tau.exp()
    z, cross_entropies, diversity_errors, ranks = [], [], [], []
    for row in range(len(plan.samples)):
        asv, count = row_of(drawn, row)
        output = model(alone(tokens, asv, count)._replace(masked_nucleotides=mask[asv].contiguous()))
        z.append(output.sample_embedding[0] / tau)
        ranks.append((asv, output.heads.get("taxonomy")))
        logits, true = output.nucleotide_logits, tokens[asv][mask[asv]].long()
        cross_entropies.append(logits.logsumexp(1) - logits.gather(1, true[:, None])[:, 0])
        if truth.faith_pd is not None:
            predicted = functional.linear(output.sample_embedding[0], *model.head("faith_pd").parameters())[0]
            diversity_errors.append((predicted - math.log(1 + truth.faith_pd[row])) ** 2)
    parts = {
        "unifrac_loss": distance_loss(z, truth.distance),
        "nucleotide_loss": torch.cat(cross_entropies).sum() / max(1, sum(map(len, cross_entropies))),
    }
    if diversity_errors:
        parts["faith_pd_loss"] = torch.stack(diversity_errors).mean()
    if "taxonomy" in model.head_names:
        names = np.concatenate([asv for asv, _ in ranks])
        parts["taxonomy_loss"] = rank_loss(run, names, torch.cat([logits for _, logits in ranks]))
    weights = run.config.losses.weights
    return {"loss": sum(weights[name.removesuffix("_loss")] * part for name, part in parts.items())} | parts


def rank_loss(run: Run, asv: np.ndarray, logits: Tensor) -> Tensor:
    """Mean over ranks of the mean cross-entropy of ASVs, with an entry for each sample that holds one, if it is known.

    Classes are the lineages that ASVs of training samples have, as the simulation writes them.
    """
    study, losses, start = run.material.study, [], 0
    trained = study.table.counts[run.material.split.train].sum(axis=0) > 0
    taxa = pd.read_csv(run.config.inputs.taxonomy, sep="\t", index_col=0)["Taxon"]
    lineages = [taxa[name].split("; ") for name in study.table.asv_ids]
    for depth in range(2, 7):  # from phylum to genus: there is one domain, and no species
        classes = sorted(
            {"; ".join(x[:depth]) for x, t in zip(lineages, trained, strict=True) if t and len(x) >= depth}
        )
        true = [classes.index("; ".join(x[:depth])) if "; ".join(x[:depth]) in classes else -1 for x in lineages]
        own = torch.tensor(true)[torch.from_numpy(asv)]
        part = logits[:, start : start + len(classes)][own >= 0]
        errors = part.logsumexp(1) - part.gather(1, own[own >= 0][:, None])[:, 0]
        losses.append(errors.sum() / max(1, len(errors)))
        start += len(classes)
    assert start == logits.shape[1]
    return torch.stack(losses).mean()


def distance_loss(z: list[Tensor], true: np.ndarray) -> Tensor:
    """Mean over pairs of the squared error of 1 - exp(-d), d the softened Euclidean distance; zero without a pair."""
    errors = [z[0].sum() * 0]
    for i in range(len(z)):
        for j in range(i + 1, len(z)):
            apart = ((z[i] - z[j]) ** 2).sum()
            softened = (apart + SOFTENING**2).sqrt() - SOFTENING
            errors.append((1 - torch.exp(-softened) - true[i, j]) ** 2)
    return torch.stack(errors).sum() / max(1, len(errors) - 1)


def true_distances(run: Run, plan: StepPlan, counts: np.ndarray) -> Truth:
    """Distances from the matrix's file, or distances and diversities of the drawn counts by scikit-bio."""
    inputs, table = run.config.inputs, run.material.study.table
    ids = [table.sample_ids[row] for row in plan.samples]
    if inputs.unifrac_matrix is not None:
        return Truth(pd.read_csv(inputs.unifrac_matrix, sep="\t", index_col=0).loc[ids, ids].to_numpy(), None)
    newick = io.StringIO(Path(inputs.tree).read_text())
    tree = skbio.TreeNode.read(newick, format="newick", convert_underscores=False)
    named = {"taxa": list(table.asv_ids), "tree": tree, "validate": False}
    distance = skbio.diversity.beta_diversity("unweighted_unifrac", counts, **named)
    return Truth(distance.data, skbio.diversity.alpha_diversity("faith_pd", counts, **named).to_numpy())


def alone(tokens: Tensor, asv: np.ndarray, count: np.ndarray) -> Samples:
    """What the model reads of one sample."""
    reads = torch.from_numpy(count.copy())[None]
    return Samples(tokens[asv], torch.arange(len(asv))[None], reads, reads.sum(1), torch.zeros_like(reads).bool())


def target_losses(run: Run, plan: StepPlan) -> dict[str, Tensor]:
    """Mean over targets of the weighted means of the errors of samples, and mean over their masked abundances."""
    config, draws = run.config, run.material.draws
    values, weights = targets(run)
    errors, count_errors = [], []
    for sample in plan.samples:
        asv, count = draws.counts(sample, plan.epoch)
        hidden = concealed(run, plan, sample, asv) if config.target.count_weight > 0 else None
        read = alone(run.material.nucleotides, asv, count)
        output = run.model(read._replace(masked_abundances=hidden, categories=categories_of(run, plan, sample)))
        errors.append(sample_errors(run, output.prediction[0], values[sample]))
        if hidden is not None:
            share = torch.from_numpy(np.log(count / count.sum())).to(output.abundances.dtype)
            count_errors.append((output.abundances[0] - share)[hidden[0]] ** 2)
    weight = torch.from_numpy(weights[plan.samples]).to(errors[0].dtype)
    totals = weight.sum(0)
    means = (torch.stack(errors) * weight).sum(0) / torch.where(totals > 0, totals, 1)
    parts = {"target_loss": means.mean()}
    if count_errors:
        parts["count_loss"] = torch.cat(count_errors).sum() / max(1, sum(map(len, count_errors)))
    target = config.target
    return {"loss": sum(getattr(target, n.replace("loss", "weight")) * x for n, x in parts.items())} | parts


def categories_of(run: Run, plan: StepPlan, sample: int) -> Tensor | None:
    """Categories of a sample as the model looks them up, [1, columns], some concealed by (seed, step, sample).

    They are site, habitat and region, and none is missing or new in training: 2 and above; 1 stands for new ones.
    """
    config, study = run.config.categories, run.material.study
    if not config.categorical_columns:
        return None
    columns = [study.metadata[name] for name in ("site", "habitat", "region")]
    codes = torch.tensor(
        [2 + sorted(set(each.iloc[run.material.split.train])).index(each.iloc[sample]) for each in columns]
    )
    address = derived_seed(run.config.runtime.seed, "conceal categories", plan.step)
    keys = torch.from_numpy(text_keys([study.table.sample_ids[sample]]))
    draw = uniforms(address, keys, len(columns))[0]
    return torch.where(draw < config.categorical_dropout, 1, codes)[None]


def sample_errors(run: Run, prediction: Tensor, values: np.ndarray) -> Tensor:
    """Error of one sample in every target, [T]; prediction: all that the model gives for it."""
    config = run.config.target
    if config.classifier:
        return (prediction.logsumexp(0) - prediction[int(values[0])])[None]
    errors, place = [], 0
    for name, value in zip(config.metadata_column, values, strict=True):
        excess = prediction[place] - value
        match config.losses[name]:
            case "quantile":
                short = [value - prediction[place + i] for i in range(len(config.quantiles))]
                each = [q * e if e > 0 else (q - 1) * e for q, e in zip(config.quantiles, short, strict=True)]
                errors.append(sum(each) / len(each))
                place += len(each) - 1
            case "asymmetric":
                errors.append(config.over_penalty * excess if excess > 0 else -config.under_penalty * excess)
            case "huber":
                errors.append(excess**2 / 2 if excess.abs() < 1 else excess.abs() - 0.5)
        place += 1
    return torch.stack(errors)


def concealed(run: Run, plan: StepPlan, sample: int, asv: np.ndarray) -> Tensor:
    """Which abundances of a sample are hidden, by (seed, step, sample, ASV): bool [1, A]."""
    table, config = run.material.study.table, run.config
    keys = text_keys([table.sample_ids[sample]]) ^ sequence_keys([table.sequences[i] for i in asv])
    draw = uniforms(derived_seed(config.runtime.seed, "hide abundances", plan.step), torch.from_numpy(keys), 1)
    return (draw[:, 0] < config.target.count_mask_ratio)[None]


def targets(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Scaled number or class, and weight, of every sample of the study, in double precision: [samples, T] both."""
    columns = run.material.study.metadata[list(run.config.target.metadata_column)]
    train = columns.iloc[run.material.split.train]
    if not run.config.target.classifier:
        scaled = (columns - train.mean()) / train.std(ddof=0)
        weights = columns.notna().to_numpy(np.float64) * by_category(run)[:, None]
        return scaled.fillna(0).to_numpy(), weights
    column, of_train = columns.iloc[:, 0], train.iloc[:, 0]
    names = sorted(set(of_train))
    of_class = {name: len(train) / (len(names) * (of_train == name).sum()) for name in names}
    return np.array(column.map(names.index))[:, None], np.array(column.map(of_class))[:, None]


def by_category(run: Run) -> np.ndarray:
    """Weight of every sample of the study: the inverse of its categories' frequencies, with mean 1 in training."""
    metadata, train = run.material.study.metadata, run.material.split.train
    weight = np.ones(len(metadata))
    if run.config.weights.categorical_loss_weights == "none":
        return weight
    for name in run.config.weights.categorical_loss_weight_column:
        weight /= metadata[name].map(metadata[name].iloc[train].value_counts()).to_numpy(np.float64)
    return weight / weight[train].mean()
