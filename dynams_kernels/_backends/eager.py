"""The whole kernel interface in plain torch: it serves every device without a kernel of its own, and is the fallback on the others.

Exact by the same contract as the compiled backends; it stores what they do not (a softmax of the rows), reads rows several
times, and sorts where they select.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dynams_kernels._backends.digits import PlainDigitCounter
from dynams_kernels._backends.order import comparable
from dynams_kernels._backends.products import apart, keeps_logits, unrounded_logits
from dynams_kernels._backends.shard_states import (
    LEAST_EXPONENT,
    NO_CLASS,
    SUMMED_KINDS,
    state_parts,
)
from dynams_kernels._kinds import BIT, LABELLED_KINDS, LOGSUMEXP, kinds_of, mask_of
from dynams_kernels._selection_checks import check_group_range, check_group_sizes

# Rows are scored in blocks of about this many logits, so that a linear score never holds all of them: on a CPU they stay in
# cache, elsewhere they are worth their launches.
_BLOCK_ON_CPU, _BLOCK_ELSEWHERE = 1 << 20, 1 << 22
# Elsewhere every block reads the whole weight from memory, which a product of so many rows hides: more logits of many classes,
# as far as so many bytes hold them.
_PRODUCT_ROWS, _MOST_BLOCK_BYTES = 512, 128 << 20
_PRODUCT_TILE = 128  # rows

_SOFTMAX_KINDS = mask_of(("probability", "loss", "el2n", "entropy", "confidence"))
_LOGSUMEXP = BIT[LOGSUMEXP]


_OWN_SCORES = frozenset({torch.float32, torch.float64})


def score_dtype(dtype: torch.dtype) -> torch.dtype:
    """Scores are accumulated and returned in float32, and in float64 for float64 input."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def empty_scores(beside: Tensor, *shape: int) -> Tensor:
    """Room for scores of logits or features, on their device."""
    if beside.dtype in _OWN_SCORES:
        return beside.new_empty(*shape)
    return beside.new_empty(*shape, dtype=torch.float32)


def difference(larger: Tensor, smaller: Tensor) -> Tensor:
    """larger - smaller, 0 where they are equal: two equal infinities have no margin between them."""
    return torch.where(larger == smaller, torch.zeros_like(larger), larger - smaller)


def _largest_of_others(top: Tensor, own: Tensor) -> Tensor:
    """The largest logit of the other classes: the second of the top two exactly where one's own is the first."""
    return torch.where(own == top[:, 0], top[:, 1], top[:, 0])


def _shifted(logits: Tensor, largest: Tensor) -> Tensor:
    """z - max(z), with the maximum itself at 0 even where it is infinite (the limit of the softmax)."""
    return difference(logits, largest.unsqueeze(1).expand_as(logits))


def shared_softmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax and log-softmax of rows (B, C); +inf logits share the whole mass, an all -inf row is uniform."""
    shifted = _shifted(logits, logits.amax(1))
    log_softmax = shifted - shifted.exp().sum(1, keepdim=True).log()
    return log_softmax.exp(), log_softmax


def _distance_quotients(logits: Tensor, first: Tensor, class_distances: Tensor) -> Tensor:
    """(z_p - z_c) / ||w_p - w_c|| for every class c, +inf at c = p."""
    own = logits.gather(1, first.unsqueeze(1))
    numerators = difference(own.expand_as(logits), logits)
    quotients = numerators / class_distances[first].to(logits.dtype)
    # Classes that agree on this sample are at distance 0, also where their weights coincide (0 / 0).
    quotients = torch.where(numerators == 0, torch.zeros_like(quotients), quotients)
    return quotients.scatter(1, first.unsqueeze(1), torch.inf)


def _first_two(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The indices of the two largest logits of each row, the lowest index first where they are equal."""
    first = lowest_index(logits == logits.amax(1, keepdim=True))
    others = logits.scatter(1, first.unsqueeze(1), -torch.inf)
    runner_up = others == others.amax(1, keepdim=True)
    second = lowest_index(runner_up.scatter(1, first.unsqueeze(1), False))
    return first, second


def lowest_index(mask: Tensor) -> Tensor:
    return mask.to(torch.uint8).argmax(1)  # of equal maxima, torch.argmax returns the first


def row_scores(
    logits: Tensor, labels: Tensor | None, class_distances: Tensor | None, kinds: int
) -> Tensor:
    """The scores of logits (B, C) named by the bits of `kinds`: a row of (n, B) for each, in bit order."""
    batch, classes = logits.shape
    dtype = score_dtype(logits.dtype)
    wanted = kinds_of(kinds)
    if batch == 0:
        return logits.new_empty((len(wanted), 0), dtype=dtype)

    z = logits.to(dtype)
    top, places = z.topk(2, dim=1)
    gap = difference(top[:, 0], top[:, 1])
    missing = torch.isnan(
        top[:, 0]
    )  # torch orders NaN above every number: it is the first of the top two
    out: dict[str, Tensor] = {"gap": gap}

    own = None
    if labels is not None:
        inside = (labels >= 0) & (labels < classes)
        safe = torch.where(inside, labels, torch.zeros_like(labels))
        own = z.gather(1, safe.unsqueeze(1)).squeeze(1)
        label_missing = missing | ~inside
        out["label"] = difference(own, _largest_of_others(top, own))
    if class_distances is not None:
        first = lowest_index(z == top[:, :1])
        out["distance"] = _distance_quotients(z, first, class_distances).amin(1)
    if kinds & _SOFTMAX_KINDS:
        shifted = _shifted(z, top[:, 0])
        e = shifted.exp()
        # All but one of the largest: where a row is nearly certain, what they have is the score, and lost beside the largest's 1.
        others = e.scatter(1, places[:, :1], 0.0)
        rest = others.sum(1)
        total, log_total = rest + 1, rest.log1p()
        # p1 - p2 = p1 (1 - exp(-gap)): no cancellation where the two are close.
        out["probability"] = -torch.expm1(-gap) / total
        out["confidence"] = rest / total
        if "entropy" in wanted:
            pull = (others * shifted.clamp(min=LEAST_EXPONENT)).sum(1)
            out["entropy"] = (log_total - pull / total).clamp(min=0)
        if own is not None:
            out["loss"] = log_total - difference(own, top[:, 0])
            if "el2n" in wanted:
                wrong = e.scatter(1, safe.unsqueeze(1), 0.0)
                # ||p - y||^2 = sum of p_c^2 over the others + (1 - p_y)^2, and 1 - p_y is the others' sum.
                out["el2n"] = (wrong.square().sum(1) + wrong.sum(1).square()).sqrt() / total

    nan = torch.full_like(gap, torch.nan)
    rows = []
    for kind in wanted:
        unknown = label_missing if kind in LABELLED_KINDS else missing
        rows.append(torch.where(unknown, nan, out[kind]))
    return torch.stack(rows)


def row_score(
    logits: Tensor, labels: Tensor | None, class_distances: Tensor | None, kind: int
) -> Tensor:
    """The one score (B,) that is named by a bit."""
    return row_scores(logits, labels, class_distances, kind)[0]


def class_pairs(
    logits: Tensor, labels: Tensor | None, class_distances: Tensor | None, kind: int
) -> Tensor:
    """The two classes (B, 2) whose logits' difference is the margin, largest first (for `label`: the label first)."""
    z = logits.to(score_dtype(logits.dtype))
    first, second = _first_two(z)
    if kind == BIT["label"] and labels is not None:
        # A label outside the classes (its score is NaN) must still not index outside the row.
        safe = labels.clamp(0, z.shape[1] - 1)
        first, second = safe, torch.where(first == safe, second, first)
    elif kind == BIT["distance"] and class_distances is not None:
        second = _distance_quotients(z, first, class_distances).argmin(1)
    return torch.stack((first, second), 1)


def linear_scores(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor | None,
    class_distances: Tensor | None,
    widths: Sequence[int],
    kinds: int,
    pairs: bool,
) -> tuple[Tensor, Tensor]:
    """The scores (n, w, B) of `features @ weight.T + bias` at w widths, a product each; the class pairs where asked for."""
    operands = (features, weight, bias, labels, class_distances)
    return linear_by_blocks(row_scores, *operands, widths, kinds, pairs)


def _block_rows(features: Tensor, classes: int, logit_bytes: int) -> int:
    """Of how many rows the logits are held at once."""
    if features.is_cpu:
        return max(1, _BLOCK_ON_CPU // classes)
    rows = _BLOCK_ELSEWHERE // classes
    if rows >= _PRODUCT_ROWS:
        return rows
    rows = max(rows, min(_PRODUCT_ROWS, _MOST_BLOCK_BYTES // (classes * logit_bytes)))
    return max(1, rows if rows < _PRODUCT_TILE else rows // _PRODUCT_TILE * _PRODUCT_TILE)


def linear_by_blocks(
    score: Callable[[Tensor, Tensor | None, Tensor | None, int], Tensor],
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor | None,
    class_distances: Tensor | None,
    widths: Sequence[int],
    kinds: int,
    pairs: bool,
) -> tuple[Tensor, Tensor]:
    """`linear_scores` through a backend's `row_scores`, block of rows by block of rows.

    The logsumexp, of the highest bit, is no score of rows. For `distance`, logits are in float32 where torch can make them so.
    """
    batch, classes = features.shape[0], weight.shape[0]
    wide = bool(kinds & BIT["distance"]) and keeps_logits(features)
    product = unrounded_logits if wide else torch.nn.functional.linear
    size = features.element_size()
    pair_rows = torch.empty((batch if pairs else 0, 2), dtype=torch.int64, device=features.device)
    step = _block_rows(features, classes, max(4, size) if wide else size)
    if batch <= step and len(widths) == 1 and not pairs and not kinds & _LOGSUMEXP:
        # A call and a copy less, of what is a few launches.
        slim = apart(features[:, : widths[0]])
        logits = product(slim, weight[:, : widths[0]], bias)
        return score(logits, labels, class_distances, kinds).unsqueeze(1), pair_rows
    scores = empty_scores(features, kinds.bit_count(), len(widths), batch)
    for begin in range(0, batch, step):
        block = slice(begin, begin + step)
        block_labels = None if labels is None else labels[block]
        for place, width in enumerate(widths):
            slim = apart(features[block, :width])
            logits = product(slim, weight[:, :width], bias)
            own = scores[:, place, block]
            if kinds & _LOGSUMEXP:
                own[-1] = logits.to(own.dtype).logsumexp(1)
                own = own[:-1]
            own.copy_(score(logits, block_labels, class_distances, kinds & ~_LOGSUMEXP))
        if pairs:
            pair_rows[block] = class_pairs(logits, block_labels, class_distances, kinds)
    return scores, pair_rows


def linear_states(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor | None,
    kinds: int,
    pairs: bool,
) -> tuple[Tensor, Tensor | None]:
    """The states (n, B) of a shard of classes, at least one, see `shard_states`; their two largest (2, B) where asked for."""
    batch, classes = features.shape[0], weight.shape[0]
    states = empty_scores(features, len(state_parts(kinds)), batch)
    numbers = None
    if pairs:
        numbers = torch.empty((2, batch), dtype=torch.int64, device=features.device)
    step = _block_rows(features, classes, features.element_size())
    for begin in range(0, batch, step):
        block = slice(begin, begin + step)
        logits = torch.nn.functional.linear(apart(features[block]), weight, bias)
        logits = logits.to(states.dtype)
        own_labels = None if labels is None else labels[block]
        states[:, block] = _states_of(logits, own_labels, kinds)
        if numbers is not None:
            numbers[:, block] = _largest_classes(logits)
    return states, numbers


def _states_of(logits: Tensor, labels: Tensor | None, kinds: int) -> Tensor:
    classes = logits.shape[1]
    top = logits.topk(min(2, classes), dim=1)  # NaN is the largest to torch
    first = top.values[:, 0]
    none = torch.full_like(first, -torch.inf)
    state = {"first": first, "second": top.values[:, 1] if classes > 1 else none}
    if kinds & SUMMED_KINDS:
        d = _shifted(logits, first).clamp(min=LEAST_EXPONENT)
        e = d.exp().scatter(1, top.indices[:, :1], 0.0)
        state |= {"rest": e.sum(1), "squares": e.square().sum(1), "shifted": (e * d).sum(1)}
    if labels is not None:
        state["own"] = logits.gather(1, labels.clamp(0, classes - 1).unsqueeze(1)).squeeze(1)
    return torch.stack([state[part] for part in state_parts(kinds)])


def _largest_classes(logits: Tensor) -> Tensor:
    """The classes (2, rows) of the two largest, the lowest of equals first; of one class the second is none."""
    if logits.shape[1] > 1:
        return torch.stack(_first_two(logits))
    only = torch.zeros(logits.shape[0], dtype=torch.int64, device=logits.device)
    return torch.stack((only, only + NO_CLASS))


def smallest_k(values: Tensor, k: int, by_value: bool) -> tuple[Tensor, Tensor]:
    """The k smallest of values (N,) in the contract's total order, through a stable sort."""
    order = torch.sort(comparable(values), stable=True).indices[:k]
    indices = order if by_value else order.sort().values
    return values[indices], indices


def smallest_k_into(
    values: Tensor, by_value: bool, out_values: Tensor, out_indices: Tensor
) -> None:
    """`smallest_k`, written into tensors of k values and k indices."""
    found, indices = smallest_k(values, out_values.shape[0], by_value)
    out_values.copy_(found)
    out_indices.copy_(indices)


def digit_counter(values: Tensor) -> PlainDigitCounter:
    """Counts of the digits of values' keys, as a search over several processes adds them up."""
    return PlainDigitCounter(values, smallest_k)


def smallest_k_grouped(
    values: Tensor,
    groups: Tensor,
    k: Tensor | None,
    fraction: float,
    total: int,
    by_value: bool,
) -> tuple[Tensor, Tensor]:
    """The k smallest of every group of values (N,), through stable sorts. Waits for a GPU, as sizes must be known."""
    if k is None:
        groups, group_count = numbered_groups(groups)
    else:
        group_count = check_group_range(groups, k.shape[0])
    sizes = torch.bincount(groups, minlength=group_count)
    if k is None:
        quotas = (sizes.double() * fraction + 0.5).floor().long().clamp(min=1)
        quotas = torch.where(sizes == 0, sizes, quotas)
    else:
        quotas = k.to(values.device)
        check_group_sizes(quotas, sizes)
    ranked = torch.sort(comparable(values), stable=True).indices
    by_group = ranked[torch.sort(groups[ranked], stable=True).indices]
    own = groups[by_group]
    rank = torch.arange(len(own), device=own.device) - (sizes.cumsum(0) - sizes)[own]
    chosen = torch.zeros_like(groups, dtype=torch.bool)
    chosen[by_group] = rank < quotas[own]
    indices = ranked[chosen[ranked]] if by_value else chosen.nonzero().flatten()
    return values[indices], indices


def numbered_groups(groups: Tensor) -> tuple[Tensor, int]:
    """The groups and how many there are; renumbered where their numbers are far apart: memory is wanted for each number."""
    count = check_group_range(groups, None)
    if count <= 4 * groups.numel() + 1024:
        return groups, count
    numbers, dense = torch.unique(groups, return_inverse=True)
    return dense, numbers.numel()
