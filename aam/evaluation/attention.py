"""How much the ASVs of samples attend to categorical columns, over a study."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from aam.evaluation.figures import figure


class ColumnMeans:
    """Mean weight of each column over the ASVs of each sample, collected while a long table passes by."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        self._parts: list[pd.DataFrame] = []

    def watch(self, parts: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        """Pass on tables with ``sample_id``, ``column`` and ``weight``; all rows of a sample are in one of them."""
        for part in parts:
            self._parts.append(part.groupby(["sample_id", "column"], sort=False)["weight"].mean().unstack())
            yield part

    @property
    def of_samples(self) -> pd.DataFrame:
        """[samples, columns], in the order in which samples came; the sum over columns is 1."""
        return pd.concat(self._parts)[list(self.columns)]

    def summary(self) -> str:
        """Mean and standard deviation over samples, as text."""
        table = self.of_samples
        return ", ".join(f"{name} {table[name].mean():.3f} (sd {table[name].std(ddof=0):.3f})" for name in table)


def plot_column_means(means: ColumnMeans, path: Path) -> None:
    """Draw a box for each column: its mean weight in samples, beside equal attention to all."""
    table = means.of_samples
    with figure(path, width=2.5 + 0.8 * len(means.columns), height=4.0) as axes:
        axes.boxplot([table[name].to_numpy(np.float64) for name in table], tick_labels=list(means.columns))
        axes.axhline(1 / len(means.columns), color="0.6", linewidth=0.8, linestyle="--", label="all columns alike")
        axes.set_ylim(-0.02, 1.02)
        axes.set_ylabel("attention weight, mean over ASVs of a sample")
        axes.set_title(f"{len(table)} samples")
        axes.legend(frameon=False, loc="best")
