"""What the learners of a run are, in phrases for a methods section."""

from collections.abc import Callable, Mapping
from typing import Final

from aam.config import EvaluateConfig, TrainConfig
from aam.workflows.methods_text import Text, listed

Config = EvaluateConfig | TrainConfig


def describe_learner(name: str, config: Config, text: Text) -> str:
    """A phrase such as ``a random forest of 500 trees ...``, with what it cites."""
    return LEARNERS[name](config, text)


def _null(config: Config, _: Text) -> str:
    guess = "the frequencies of the classes" if config.target.classifier else "the median"
    return f"a guess that looks at no sample ({guess} in training)"


def _depth(_: Config, text: Text) -> str:
    return f"a random forest {text.cite('breiman2001')} on the sequencing depth of a sample alone"


def _batch(config: Config, _: Text) -> str:
    assert isinstance(config, EvaluateConfig)
    return f"a model of the batch columns alone ({listed(config.comparison.batch_column)})"


def _prevalent(config: Config, what: str) -> str:
    return f"{what} in at least {100 * config.trees.min_prevalence:g} % of the training samples"


def _forest(config: Config, text: Text) -> str:
    asvs = _prevalent(config, "of ASVs")
    return (
        f"a random forest {text.cite('breiman2001')} of {config.trees.trees} trees on centred log-ratios {asvs}, with "
        "one read added to each count"
    )


def _clades(config: Config, text: Text) -> str:
    clades = _prevalent(config, "of every clade of the phylogeny")
    return f"{config.trees.trees} extremely randomized trees {text.cite('geurts2006')} on the log proportion {clades}"


def _linear(config: Config, text: Text) -> str:
    penalty, classes = config.linear.linear_penalty, config.target.classifier
    key, shown = {
        "l2": ("hoerl1970", "an l2"),
        "l1": ("tibshirani1996", "an l1"),
        "elasticnet": ("zou2005", "an elastic net"),
    }[penalty]
    model = "ridge regression" if penalty == "l2" and not classes else f"linear regression with {shown} penalty"
    if classes:
        model = f"logistic regression with {shown} penalty"
    asvs = _prevalent(config, "of ASVs")
    return f"{model} {text.cite(key)} on centred log-ratios {asvs}, the penalty chosen by inner folds"


def _kernel(config: Config, text: Text) -> str:
    on_tree = config.inputs.tree is not None
    unifrac = f"unweighted UniFrac {text.cite('lozupone2005')}, other kernels of clades and " if on_tree else ""
    besides = [*config.categories.categorical_columns, *config.kernel.numeric_columns]
    columns = f", of the metadata columns {listed(besides)}" if besides else ""
    encoder = ", of the embedding of a pretrained encoder" if config.finetune.pretrained_encoder is not None else ""
    return (
        f"a Gaussian process {text.cite('rasmussen2006')} on a weighted sum of kernels ({unifrac}kernels of ASVs"
        f"{columns}{encoder}), the weights chosen by predictions for left-out groups of the training samples"
    )


def _ensemble(config: Config, text: Text) -> str:
    members = config.ensemble.ensemble_members
    if config.ensemble.ensemble_weights == "mean":
        return f"the mean of {listed(members)}"
    return (
        f"an ensemble of {listed(members)}, whose weights are half alike and half stacked on predictions for left-out "
        f"groups of the training samples (a super learner, {text.cite('vanderlaan2007', brackets=False)})"
    )


def _neural(config: Config, text: Text) -> str:
    start = "as it was pretrained" if config.finetune.pretrained_encoder is not None else "with random weights"
    return f"a transformer {text.cite('vaswani2017')} over the nucleotides of ASVs and the ASVs of a sample, {start}"


def _outside(name: str, key: str) -> Callable[[Config, Text], str]:
    return lambda _, text: f"{name} {text.cite(key)} with its defaults on the features of the forest"


LEARNERS: Final[Mapping[str, Callable[[Config, Text], str]]] = {
    "null": _null,
    "depth": _depth,
    "batch": _batch,
    "forest": _forest,
    "clades": _clades,
    "linear": _linear,
    "kernel": _kernel,
    "ensemble": _ensemble,
    "neural": _neural,
    "lightgbm": _outside("LightGBM", "ke2017"),
    "xgboost": _outside("XGBoost", "chen2016"),
    "tabicl": _outside("TabICL", "qu2025"),
}
"""Phrases by the name of the learner."""
