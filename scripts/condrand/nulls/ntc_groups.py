"""Groups of non-targeting control (NTC) guides that look like the guides of a gene.

A group has as many guides as a gene and as frequent ones, and targets nothing: the p values of
such groups are a null that no model of the treatment enters.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import scipy.sparse as sp

_MOST_BINS_TOLD = 5

Signature = tuple[int, ...]


def guide_frequency(
    G: "np.ndarray | sp.spmatrix | sp.sparray", guide_names: Sequence[str]
) -> dict[str, float]:
    """Share of cells that carry each guide.

    Parameters
    ----------
    G : dense or scipy sparse, shape (n_cells, n_guides)
        Guide calls; a positive value is a guide, a stored zero is none.
    guide_names : sequence of str, length n_guides

    Returns
    -------
    dict of str to float
        By guide, in the order of the columns.

    Raises
    ------
    ValueError
        If the names do not fit the columns or are not unique.
    """
    G = G if sp.issparse(G) else np.asarray(G)
    n_cells, n_guides = G.shape
    if len(guide_names) != n_guides or len(set(guide_names)) != n_guides:
        raise ValueError(
            f"{len(guide_names)} guide names ({len(set(guide_names))} distinct) for {n_guides} "
            "columns: give one name per column"
        )
    carried = np.asarray((G > 0).sum(axis=0)).ravel()
    return {str(name): int(n) / n_cells for name, n in zip(guide_names, carried, strict=True)}


def build_ntc_group_inputs(
    guide_names: Sequence[str],
    guide2gene: Mapping[str, str],
    guide_freq: Mapping[str, float],
    ntc_label: str | Iterable[str],
    group_size: int = 6,
    n_bins: int = 20,
) -> tuple[list[str], dict[str, float], dict[str, int], list[Signature]]:
    """What :func:`make_ntc_groups_matched_by_freq` needs of a screen.

    Parameters
    ----------
    guide_names : sequence of str
        Guides of the screen; one without a gene is left out.
    guide2gene : mapping of str to str
        Target gene, or NTC label, of each guide.
    guide_freq : mapping of str to float
        Share of cells with each guide (:func:`guide_frequency`).
    ntc_label : str or iterable of str
        Genes that stand for "non-targeting control".
    group_size : int
        Guides of a group.
    n_bins : int
        Bins of the frequency, at the quantiles of the real genes' guides; the end bins are open.

    Returns
    -------
    ntc_guides : list of str, sorted
    guide_freq : dict of str to float
        Of every guide with a gene.
    guide_to_bin : dict of str to int
        Frequency bin, from 0 (rarest) to ``n_bins - 1``. A value on an edge falls below it.
    real_sigs : list of tuple of int
        Signature of every gene with at least `group_size` guides: the sorted bins of its
        `group_size` rarest. In the order of the genes' names.

    Raises
    ------
    ValueError
        If no guide is a control, no gene has enough guides, or a number is below 1.
    """
    if group_size < 1 or n_bins < 1:
        raise ValueError(f"group_size {group_size} and n_bins {n_bins} must be at least 1")
    labels = {ntc_label} if isinstance(ntc_label, str) else set(ntc_label)
    of_gene: dict[str, list[str]] = {}
    for guide in guide_names:
        if guide in guide2gene:
            of_gene.setdefault(guide2gene[guide], []).append(guide)
    ntc_guides = sorted(guide for label in labels for guide in of_gene.pop(label, []))
    if not ntc_guides:
        there = ", ".join(sorted(of_gene)[:_MOST_BINS_TOLD])
        raise ValueError(
            f"no guide is labelled {' or '.join(map(repr, sorted(labels)))}: correct the NTC "
            f"label. There are, among others: {there or 'no genes'}"
        )
    real = [guide for guides in of_gene.values() for guide in guides]
    frequency = {guide: float(guide_freq[guide]) for guide in [*ntc_guides, *real]}
    most = max(map(len, of_gene.values()), default=0)
    if most < group_size:
        raise ValueError(
            f"no gene has {group_size} guides (the most is {most}): set group_size to {most} "
            "or less"
        )
    edges = np.quantile([frequency[guide] for guide in real], np.linspace(0, 1, n_bins + 1))
    # The outer edges are infinite: only the inner ones divide.
    bins = np.digitize(list(frequency.values()), edges[1:-1], right=True)
    guide_to_bin = {guide: int(at) for guide, at in zip(frequency, bins, strict=True)}
    signatures = []
    for gene in sorted(of_gene):
        rarest = sorted(of_gene[gene], key=lambda guide: (frequency[guide], guide))[:group_size]
        if len(rarest) == group_size:
            signatures.append(tuple(sorted(guide_to_bin[guide] for guide in rarest)))
    return ntc_guides, frequency, guide_to_bin, signatures


def make_ntc_groups_matched_by_freq(
    ntc_guides: Iterable[str],
    ntc_freq: Mapping[str, float],
    real_gene_bin_sigs: Iterable[Sequence[int]],
    guide_to_bin: Mapping[str, int],
    group_size: int = 6,
    seed: int = 0,
    max_groups: int | None = None,
    drop_remainder: bool = True,
    max_attempts: int = 100,
) -> dict[str, list[str]]:
    """Partition control guides into groups whose frequency bins are those of a random gene.

    Parameters
    ----------
    ntc_guides : iterable of str
    ntc_freq : mapping of str to float
        Frequency of each control guide; orders what is left over.
    real_gene_bin_sigs : iterable of sequence of int, each of length `group_size`
        Signatures of the genes; one that occurs twice is drawn twice as often.
    guide_to_bin : mapping of str to int
        Frequency bin of each control guide.
    group_size : int
    seed : int
        The groups depend on it and on the sets of guides and signatures, not on their order.
    max_groups : int or None
        Stop at so many groups.
    drop_remainder : bool
        If false, the guides that no signature could use are grouped as well, `group_size` at a
        time in order of frequency. These groups match no gene, and the last may be smaller.
    max_attempts : int
        Stop after so many signatures in a row that the guides left could not serve.

    Returns
    -------
    dict of str to list of str
        Sorted guides of ``ntc_0``, ``ntc_1``, ...; no guide is in two groups. May be empty.

    Raises
    ------
    ValueError
        If a signature is not as long as a group.
    """
    signatures = sorted(tuple(sorted(map(int, sig))) for sig in real_gene_bin_sigs)
    lengths = {len(sig) for sig in signatures} - {group_size}
    if lengths:
        raise ValueError(f"signatures have {sorted(lengths)} bins, groups {group_size} guides")
    random = np.random.default_rng(seed)
    pool = _shuffled_by_bin(ntc_guides, guide_to_bin, random)
    most = sum(map(len, pool.values())) if max_groups is None else max_groups
    groups: list[list[str]] = []
    failures = 0
    while signatures and len(groups) < most and failures < max_attempts:
        wanted = Counter(signatures[random.integers(len(signatures))])
        if _short_bins(wanted, {at: len(guides) for at, guides in pool.items()}):
            failures += 1
            continue
        failures = 0
        groups.append(sorted(pool[at].pop() for at, n in wanted.items() for _ in range(n)))
    if not drop_remainder:
        left = sorted((ntc_freq[guide], guide) for guides in pool.values() for guide in guides)
        for start in range(0, len(left), group_size):
            groups.append(sorted(guide for _, guide in left[start : start + group_size]))
    return {f"ntc_{i}": group for i, group in enumerate(groups[:most])}


def make_ntc_groups_ensemble(
    ntc_guides: Iterable[str],
    ntc_freq: Mapping[str, float],
    real_gene_bin_sigs: Iterable[Sequence[int]],
    guide_to_bin: Mapping[str, int],
    *,
    n_ensemble: int = 10,
    seed0: int = 0,
    **options: int | bool | None,
) -> list[dict[str, list[str]]]:
    """Several partitions of the control guides, with the seeds ``seed0 + e``.

    Parameters
    ----------
    ntc_guides, ntc_freq, real_gene_bin_sigs, guide_to_bin
        As in :func:`make_ntc_groups_matched_by_freq`.
    n_ensemble : int
        Partitions.
    seed0 : int
    **options
        `group_size`, `max_groups`, `drop_remainder`, `max_attempts` of that function.

    Returns
    -------
    list of dict of str to list of str, length `n_ensemble`

    Raises
    ------
    ValueError
        If a partition has no group; names the frequency bins that lack control guides.
    """
    ntc_guides, signatures = list(ntc_guides), list(real_gene_bin_sigs)
    ensemble = []
    for e in range(n_ensemble):
        groups = make_ntc_groups_matched_by_freq(
            ntc_guides, ntc_freq, signatures, guide_to_bin, seed=seed0 + e, **options
        )
        if not groups:
            raise ValueError(
                f"replicate {e} of the NTC groups is empty: "
                + _why_empty(ntc_guides, signatures, guide_to_bin)
            )
        ensemble.append(groups)
    return ensemble


def _shuffled_by_bin(
    guides: Iterable[str], guide_to_bin: Mapping[str, int], random: np.random.Generator
) -> dict[int, list[str]]:
    by_bin: dict[int, list[str]] = {}
    for guide in sorted(set(guides)):
        by_bin.setdefault(guide_to_bin[guide], []).append(guide)
    return {
        at: [by_bin[at][i] for i in random.permutation(len(by_bin[at]))] for at in sorted(by_bin)
    }


def _short_bins(wanted: Mapping[int, int], there: Mapping[int, int]) -> list[int]:
    """Bins that have fewer guides than wanted."""
    return [at for at, n in wanted.items() if there.get(at, 0) < n]


def _why_empty(
    guides: Sequence[str], signatures: Sequence[Sequence[int]], guide_to_bin: Mapping[str, int]
) -> str:
    there = Counter(guide_to_bin[guide] for guide in set(guides))
    wanted = [Counter(map(int, sig)) for sig in signatures]
    short = [_short_bins(counts, there) for counts in wanted]
    stopped = Counter(at for bins in short for at in bins)
    if not all(short) or not short:
        served = sum(not bins for bins in short)
        return (
            f"{served} of {len(short)} gene signatures could be served, none was drawn: raise "
            "max_attempts (or max_groups, if it is 0)"
        )
    told = sorted(stopped, key=lambda at: (-stopped[at], at))
    lines = []
    for at in told[:_MOST_BINS_TOLD]:
        needs = [counts[at] for counts in wanted if counts[at]]
        span = f"{min(needs)} to {max(needs)}" if min(needs) < max(needs) else f"{needs[0]}"
        lines.append(
            f"bin {at} has {there[at]} control guides, signatures want {span} "
            f"({stopped[at]} of {len(wanted)} genes stopped)"
        )
    more = len(told) - len(lines)
    rest = f"; and {more} more bins" if more else ""
    return (
        f"frequency bins ran out: {'; '.join(lines)}{rest}. Use fewer bins (n_bins), a smaller "
        f"group_size, or more control guides (there are {len(set(guides))})"
    )
