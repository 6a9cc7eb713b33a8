"""The files of ``--what importance``: summary, table, plot, a data set for iTOL and an annotated tree."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from aam.data.distances.unifrac import StudyTree
from aam.data.files.whole_files import whole_file, write_json, write_text
from aam.evaluation.evaluation_plots import save
from aam.interpret.importance import MOST, STABLE, TOP, Importance, Inquiry
from aam.interpret.sign_flips import least_p
from aam.training.run_folder import RunFolder

SHOWN: Final = 15
"""Rows of a level that are drawn."""
TITLES: Final = {"clade": "clades", "rank": "taxa", "asv": "ASVs"}
COLOURS: Final = {"rises": "#1f5fa8", "falls": "#c2571a", "mixed": "0.55"}
"""Of the bars, by direction; blue and orange are told apart by all kinds of colour vision."""
_FULL, _PALE = 0.75, 0.3
"""Opacity of stable and unstable bars: the lines of intervals are seen on both."""
_LONGEST: Final = 60
"""Letters of a name on the plot."""
_TOLD: Final = 3
"""Rows that the sentence names."""


def write_importance(importance: Importance, inquiry: Inquiry, column: str, learner: str, folder: RunFolder) -> None:
    """Write all files; the summary last."""
    with whole_file(folder.importance) as draft:
        importance.table.to_csv(draft, sep="\t", index=False, float_format="%.6g")
    plot_importance(importance.table, _unit(inquiry), f"{column}, {learner}", folder)
    study = inquiry.study
    values = _of_asvs(importance, study.table.asv_ids)
    write_text(folder.importance_itol, itol_bars(values, f"importance for {column}"))
    if study.tree is not None:
        tree = annotated_newick(study.tree, study.table.asv_ids, importance.branches)
        write_text(folder.importance_tree, tree + "\n")
    write_json(folder.explanation, summary(importance, inquiry, column, learner))


def _unit(inquiry: Inquiry) -> str:
    return "Brier skill score" if inquiry.folds.classes() else "R²"


def summary(importance: Importance, inquiry: Inquiry, column: str, learner: str) -> dict[str, Any]:
    """What is in ``explanation.json``."""
    return {
        "what": "importance",
        "column": column,
        "learner": learner,
        "sentence": sentence(importance, inquiry, column, learner),
        "notes": notes(importance, inquiry),
        "source": SOURCE,
    }


SOURCE: Final = (
    "Permutation importance (Breiman 2001; Fisher, Rudin and Dominici 2019) of held-out samples; hierarchical tests "
    "(Meinshausen 2008) by sign flips of groups (Winkler et al. 2014)."
)


def sentence(importance: Importance, inquiry: Inquiry, column: str, learner: str) -> str:
    """The result in a sentence."""
    level = "clade" if inquiry.study.tree is not None else "rank"
    rows = importance.of_level(level)
    what = TITLES[level]
    if not len(rows):
        one = "clade" if level == "clade" else "taxon"
        return (
            f"No {one} was found that predictions of {column} by {learner} depend on (family-wise error rate "
            f"{inquiry.alpha:g})."
        )
    first = "; ".join(_told(row, _unit(inquiry)) for row in rows.head(_TOLD).to_dict("records"))
    text = (
        f"Predictions of {column} by {learner} for held-out samples depend on {len(rows)} {what} (family-wise error "
        f"rate {inquiry.alpha:g}): {'first ' if len(rows) > _TOLD else ''}{first}."
    )
    asvs = importance.of_level("asv")
    if not math.isnan(importance.correlation):
        text += (
            f" Over their {len(asvs)} ASVs, the rank correlation with the importance that the forest gives them is "
            f"{importance.correlation:.2f}."
        )
    return text


def _told(row: Mapping[Any, Any], unit: str) -> str:
    of = f" of {row['class']}" if row["class"] else ""
    way = {"rises": f"the prediction{of} rises with it", "falls": f"the prediction{of} falls with it"}
    unstable = ", unstable" if row["stable"] == "no" else ""
    said = way.get(row["direction"], "in no one direction")
    return f"{row['name']} ({unit} falls by {row['importance']:.3f} without it, {said}{unstable})"


def notes(importance: Importance, inquiry: Inquiry) -> list[str]:
    """What one should know to read the table."""
    folds, groups = inquiry.folds, len(np.unique(inquiry.folds.groups))
    unit, spread = _unit(inquiry), len(folds.folds) * folds.permutations
    told = [
        f"Importance is by how much {unit} of held-out samples falls when the reads of a set of ASVs are exchanged "
        f"among them, mean of {len(folds.folds)} folds and {folds.permutations} permutations; low and high hold 95 % "
        f"of these {spread} values. A row is stable where it is above zero in {STABLE:.0%} of the folds; top is the "
        f"fraction of folds in which it is among the {TOP} largest of its level.",
        f"The error rate ({inquiry.alpha:g}) is the probability that even one clade is named although its reads "
        "tell nothing, and likewise of the taxa; p_value is adjusted for that. It does not cover clades whose reads go "
        "with those of others, as proportions do: they may be named with a small importance. ASVs that were not tested "
        "by themselves have at least the p-value of the smallest tested set that holds them.",
        "Importance is of a model, not a cause: ASVs that rise and fall together share it, and exchanging some of them "
        "makes samples that may not exist.",
    ]
    least = least_p(groups)
    if least > inquiry.alpha / 20:
        told.append(
            f"With {groups} groups no p-value is below {least:.2g}, so that a clade is only found if it makes up "
            f"{least / inquiry.alpha:.0%} of the occurrences of all ASVs: small ones need more groups."
        )
    if len(importance.of_level("asv")) == MOST:
        told.append(f"Of the ASVs below important clades, the {MOST} most prevalent ones are listed.")
    for level, count in importance.tested.items():
        told.append(f"{count} {TITLES[level]} were tested.")
    return told


def plot_importance(table: pd.DataFrame, unit: str, title: str, folder: RunFolder) -> None:
    """Draw the largest rows of each level as bars with intervals, the largest on top."""
    levels = {level: table[table["level"] == level].head(SHOWN) for level in TITLES}
    levels = {level: rows for level, rows in levels.items() if len(rows)}
    heights = [len(rows) + 2.2 for rows in levels.values()] or [2.0]
    drawn = Figure(figsize=(9.0, 0.9 + 0.24 * sum(heights)), layout="constrained")
    panels = drawn.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, (level, rows) in zip(panels, levels.items(), strict=False):
        _draw_bars(axes, rows.iloc[::-1], TITLES[level])
    if not levels:
        panels[0].axis("off")
        panels[0].text(0.5, 0.5, "nothing was found to be important", ha="center", va="center")
    else:
        panels[-1].set_xlabel(f"importance: fall of {unit} when exchanged among held-out samples", fontsize=9)
        shown = {name: colour for name, colour in COLOURS.items() if (table["direction"] == name).any()}
        handles = [Patch(color=colour, alpha=_FULL, label=_LEGEND[name]) for name, colour in shown.items()]
        if (table["stable"] == "no").any():
            handles.append(Patch(color="0.55", alpha=_PALE, label="pale: unstable"))
        drawn.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8)
    drawn.suptitle(title, fontsize=10)
    save(drawn, folder.importance_plot)


_LEGEND: Final = {
    "rises": "prediction rises with it",
    "falls": "prediction falls with it",
    "mixed": "no one direction",
}


def _draw_bars(axes: Axes, rows: pd.DataFrame, title: str) -> None:
    places = np.arange(len(rows))
    for place, row in zip(places, rows.to_dict("records"), strict=True):
        alpha = _FULL if row["stable"] == "yes" else _PALE
        axes.barh(place, row["importance"], color=COLOURS[row["direction"]], alpha=alpha, height=0.7)
        axes.plot([row["low"], row["high"]], [place, place], color="0.15", linewidth=0.9)
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.set_yticks(places, [shortened(name) for name in rows["name"]], fontsize=8)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_title(title, fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def shortened(name: str) -> str:
    """A name that fits beside a bar."""
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def _of_asvs(importance: Importance, asv_ids: Sequence[str]) -> dict[str, float]:
    """Importance of the ASVs that are listed, and of important clades, by what they are called in the tree."""
    rows = importance.of_level("asv")
    values = dict(zip(rows["id"], rows["importance"].astype(float), strict=True))
    return {name: value for name, _, value in importance.branches.values()} | {
        name: values[name] for name in asv_ids if name in values
    }


def itol_bars(values: Mapping[str, float], label: str) -> str:
    """A data set of bars for iTOL (https://itol.embl.de/help.cgi, simple bar chart), for the annotated tree."""
    head = ["DATASET_SIMPLEBAR", "SEPARATOR TAB", f"DATASET_LABEL\t{label}", f"COLOR\t{COLOURS['rises']}", "DATA"]
    return "\n".join([*head, *(f"{name}\t{value:.6g}" for name, value in values.items())]) + "\n"


def annotated_newick(tree: StudyTree, asv_ids: Sequence[str], named: Mapping[int, tuple[str, str, float]]) -> str:
    """The tree of a study as Newick, the ids of important clades as labels and their importance as comments.

    Comments are those of FigTree, ``[&importance=0.1,name="..."]``.

    Args:
        tree: the tree.
        asv_ids: names of the columns of the table.
        named: id, name and importance of some branches.
    """
    parts: list[str] = []
    open_branches: list[int] = []

    def close(until: int) -> None:
        """Close the branches that end before a tip."""
        while open_branches and tree.stop[open_branches[-1]] <= until:
            branch = open_branches.pop()
            inner = tree.stop[branch] - tree.start[branch] > 1
            parts.append((")" if inner else "") + _label(tree, branch, asv_ids, named))

    for branch in range(len(tree.start)):
        close(int(tree.start[branch]))
        if parts and not parts[-1].endswith("("):
            parts.append(",")
        if tree.stop[branch] - tree.start[branch] > 1:
            parts.append("(")
        open_branches.append(branch)
    close(int(tree.stop.max()))
    return "".join(parts) + ";"


def _label(tree: StudyTree, branch: int, asv_ids: Sequence[str], named: Mapping[int, tuple[str, str, float]]) -> str:
    leaf = tree.stop[branch] - tree.start[branch] == 1
    told = named.get(branch)
    name = _quoted(asv_ids[tree.order[tree.start[branch]]]) if leaf else told[0] if told else ""
    comment = "" if told is None else f"[&importance={told[2]:.6g},name={_comment(told[1])}]"
    return f"{name}{comment}:{tree.length[branch]:.10g}"


def _quoted(name: str) -> str:
    """A name as Newick has it: in quotes, where it holds what has a meaning there."""
    return (
        name
        if name.replace("_", "").replace(".", "").replace("-", "").isalnum()
        else "'" + name.replace("'", "''") + "'"
    )


def _comment(name: str) -> str:
    """A text within a comment: without what would end it."""
    return '"' + name.replace('"', "").replace("[", "(").replace("]", ")") + '"'
