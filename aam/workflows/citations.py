"""Works that a methods section may cite, and how they are written as BibTeX."""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple


class Work(NamedTuple):
    """One work."""

    shown: str
    """As it stands in brackets in a text."""
    kind: str
    """Of the entry: article, book, inproceedings, misc, software."""
    fields: Mapping[str, str]


def _work(shown: str, kind: str, **fields: str) -> Work:
    return Work(shown, kind, fields)


WORKS: Final[Mapping[str, Work]] = {
    "aam": _work(
        "aam",
        "software",
        author="{The aam developers}",
        title="{aam}: Attention All Microbes",
        year="2026",
    ),
    "lozupone2005": _work(
        "Lozupone and Knight 2005",
        "article",
        author="Lozupone, Catherine and Knight, Rob",
        title="{UniFrac}: a new phylogenetic method for comparing microbial communities",
        journal="Applied and Environmental Microbiology",
        volume="71",
        number="12",
        pages="8228--8235",
        year="2005",
        doi="10.1128/AEM.71.12.8228-8235.2005",
    ),
    "lozupone2007": _work(
        "Lozupone et al. 2007",
        "article",
        author="Lozupone, Catherine A. and Hamady, Micah and Kelley, Scott T. and Knight, Rob",
        title="Quantitative and qualitative beta diversity measures lead to different insights into factors that "
        "structure microbial communities",
        journal="Applied and Environmental Microbiology",
        volume="73",
        number="5",
        pages="1576--1585",
        year="2007",
        doi="10.1128/AEM.01996-06",
    ),
    "faith1992": _work(
        "Faith 1992",
        "article",
        author="Faith, Daniel P.",
        title="Conservation evaluation and phylogenetic diversity",
        journal="Biological Conservation",
        volume="61",
        number="1",
        pages="1--10",
        year="1992",
        doi="10.1016/0006-3207(92)91201-3",
    ),
    "breiman2001": _work(
        "Breiman 2001",
        "article",
        author="Breiman, Leo",
        title="Random forests",
        journal="Machine Learning",
        volume="45",
        number="1",
        pages="5--32",
        year="2001",
        doi="10.1023/A:1010933404324",
    ),
    "geurts2006": _work(
        "Geurts et al. 2006",
        "article",
        author="Geurts, Pierre and Ernst, Damien and Wehenkel, Louis",
        title="Extremely randomized trees",
        journal="Machine Learning",
        volume="63",
        number="1",
        pages="3--42",
        year="2006",
        doi="10.1007/s10994-006-6226-1",
    ),
    "hoerl1970": _work(
        "Hoerl and Kennard 1970",
        "article",
        author="Hoerl, Arthur E. and Kennard, Robert W.",
        title="Ridge regression: biased estimation for nonorthogonal problems",
        journal="Technometrics",
        volume="12",
        number="1",
        pages="55--67",
        year="1970",
        doi="10.1080/00401706.1970.10488634",
    ),
    "tibshirani1996": _work(
        "Tibshirani 1996",
        "article",
        author="Tibshirani, Robert",
        title="Regression shrinkage and selection via the lasso",
        journal="Journal of the Royal Statistical Society: Series B",
        volume="58",
        number="1",
        pages="267--288",
        year="1996",
        doi="10.1111/j.2517-6161.1996.tb02080.x",
    ),
    "zou2005": _work(
        "Zou and Hastie 2005",
        "article",
        author="Zou, Hui and Hastie, Trevor",
        title="Regularization and variable selection via the elastic net",
        journal="Journal of the Royal Statistical Society: Series B",
        volume="67",
        number="2",
        pages="301--320",
        year="2005",
        doi="10.1111/j.1467-9868.2005.00503.x",
    ),
    "rasmussen2006": _work(
        "Rasmussen and Williams 2006",
        "book",
        author="Rasmussen, Carl Edward and Williams, Christopher K. I.",
        title="Gaussian Processes for Machine Learning",
        publisher="MIT Press",
        year="2006",
        doi="10.7551/mitpress/3206.001.0001",
    ),
    "vanderlaan2007": _work(
        "van der Laan et al. 2007",
        "article",
        author="van der Laan, Mark J. and Polley, Eric C. and Hubbard, Alan E.",
        title="Super learner",
        journal="Statistical Applications in Genetics and Molecular Biology",
        volume="6",
        number="1",
        year="2007",
        doi="10.2202/1544-6115.1309",
    ),
    "efron1994": _work(
        "Efron and Tibshirani 1994",
        "book",
        author="Efron, Bradley and Tibshirani, Robert J.",
        title="An Introduction to the Bootstrap",
        publisher="Chapman and Hall/CRC",
        year="1994",
        doi="10.1201/9780429246593",
    ),
    "vaswani2017": _work(
        "Vaswani et al. 2017",
        "inproceedings",
        author="Vaswani, Ashish and Shazeer, Noam and Parmar, Niki and Uszkoreit, Jakob and Jones, Llion and "
        "Gomez, Aidan N. and Kaiser, {\\L}ukasz and Polosukhin, Illia",
        title="Attention is all you need",
        booktitle="Advances in Neural Information Processing Systems",
        volume="30",
        year="2017",
        doi="10.48550/arXiv.1706.03762",
    ),
    "rahimi2007": _work(
        "Rahimi and Recht 2007",
        "inproceedings",
        author="Rahimi, Ali and Recht, Benjamin",
        title="Random features for large-scale kernel machines",
        booktitle="Advances in Neural Information Processing Systems",
        volume="20",
        year="2007",
    ),
    "loshchilov2019": _work(
        "Loshchilov and Hutter 2019",
        "inproceedings",
        author="Loshchilov, Ilya and Hutter, Frank",
        title="Decoupled weight decay regularization",
        booktitle="International Conference on Learning Representations",
        year="2019",
        doi="10.48550/arXiv.1711.05101",
    ),
    "ke2017": _work(
        "Ke et al. 2017",
        "inproceedings",
        author="Ke, Guolin and Meng, Qi and Finley, Thomas and Wang, Taifeng and Chen, Wei and Ma, Weidong and "
        "Ye, Qiwei and Liu, Tie-Yan",
        title="{LightGBM}: a highly efficient gradient boosting decision tree",
        booktitle="Advances in Neural Information Processing Systems",
        volume="30",
        year="2017",
    ),
    "chen2016": _work(
        "Chen and Guestrin 2016",
        "inproceedings",
        author="Chen, Tianqi and Guestrin, Carlos",
        title="{XGBoost}: a scalable tree boosting system",
        booktitle="Proceedings of the 22nd ACM SIGKDD International Conference on Knowledge Discovery and Data Mining",
        pages="785--794",
        year="2016",
        doi="10.1145/2939672.2939785",
    ),
    "qu2025": _work(
        "Qu et al. 2025",
        "inproceedings",
        author='Qu, Jingang and Holzm{\\"u}ller, David and Varoquaux, Ga{\\"e}l and Le Morvan, Marine',
        title="{TabICL}: a tabular foundation model for in-context learning on large data",
        booktitle="International Conference on Machine Learning",
        year="2025",
        doi="10.48550/arXiv.2502.05564",
    ),
    "ansel2024": _work(
        "Ansel et al. 2024",
        "inproceedings",
        author="Ansel, Jason and Yang, Edward and He, Horace and Gimelshein, Natalia and others",
        title="{PyTorch} 2: faster machine learning through dynamic {Python} bytecode transformation and graph "
        "compilation",
        booktitle="Proceedings of the 29th ACM International Conference on Architectural Support for Programming "
        "Languages and Operating Systems, Volume 2",
        pages="929--947",
        year="2024",
        doi="10.1145/3620665.3640366",
    ),
    "pedregosa2011": _work(
        "Pedregosa et al. 2011",
        "article",
        author='Pedregosa, Fabian and Varoquaux, Ga{\\"e}l and Gramfort, Alexandre and Michel, Vincent and others',
        title="Scikit-learn: machine learning in {Python}",
        journal="Journal of Machine Learning Research",
        volume="12",
        pages="2825--2830",
        year="2011",
    ),
    "harris2020": _work(
        "Harris et al. 2020",
        "article",
        author="Harris, Charles R. and Millman, K. Jarrod and others",
        title="Array programming with {NumPy}",
        journal="Nature",
        volume="585",
        pages="357--362",
        year="2020",
        doi="10.1038/s41586-020-2649-2",
    ),
    "virtanen2020": _work(
        "Virtanen et al. 2020",
        "article",
        author="Virtanen, Pauli and Gommers, Ralf and Oliphant, Travis E. and Haberland, Matt and others",
        title="{SciPy} 1.0: fundamental algorithms for scientific computing in {Python}",
        journal="Nature Methods",
        volume="17",
        pages="261--272",
        year="2020",
        doi="10.1038/s41592-019-0686-2",
    ),
    "aton2026": _work(
        "Aton et al. 2026",
        "article",
        author="Aton, Matthew and McDonald, Daniel and Ca{\\~n}ardo Alastuey, Jorge and others",
        title="Scikit-bio: a fundamental {Python} library for biological omic data analysis",
        journal="Nature Methods",
        volume="23",
        number="2",
        pages="274--276",
        year="2026",
        doi="10.1038/s41592-025-02981-z",
    ),
    "mcdonald2012": _work(
        "McDonald et al. 2012",
        "article",
        author="McDonald, Daniel and Clemente, Jose C. and Kuczynski, Justin and Rideout, Jai Ram and others",
        title="The {Biological Observation Matrix} ({BIOM}) format or: how {I} learned to stop worrying and love the "
        "ome-ome",
        journal="GigaScience",
        volume="1",
        pages="7",
        year="2012",
        doi="10.1186/2047-217X-1-7",
    ),
    "bolyen2019": _work(
        "Bolyen et al. 2019",
        "article",
        author="Bolyen, Evan and Rideout, Jai Ram and Dillon, Matthew R. and Bokulich, Nicholas A. and others",
        title="Reproducible, interactive, scalable and extensible microbiome data science using {QIIME} 2",
        journal="Nature Biotechnology",
        volume="37",
        pages="852--857",
        year="2019",
        doi="10.1038/s41587-019-0209-9",
    ),
}
"""By the key of the entry. Authors beyond the fourth of many are "others"."""


def bibtex(keys: Iterable[str], versions: Mapping[str, str]) -> str:
    """Write works as BibTeX.

    Args:
        keys: of `WORKS`.
        versions: of those that are software, by key.
    """
    return "\n".join(_entry(key, WORKS[key], versions.get(key)) for key in keys)


def _entry(key: str, work: Work, version: str | None) -> str:
    fields = dict(work.fields) | ({} if version is None else {"version": version})
    return "\n".join(
        [f"@{work.kind}{{{key},", *(f"  {name} = {{{value}}}," for name, value in fields.items()), "}", ""]
    )
