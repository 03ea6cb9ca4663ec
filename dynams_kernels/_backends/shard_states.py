"""What some of a linear head's classes leave of each row, whichever backend reads them: the form in which ranks exchange it.

A state is two floats a row and one more for each sum that the kinds need, in this order:

    first, second            the two largest logits
    rest, squares, shifted   the sums of e, e^2 and e * d over all logits but ONE that attains `first`; d = z - first, e = exp(d)
    own                      the label's logit; anything where it is of another shard, until ranks exchange it as 0

and, where the two classes themselves are asked for, two class numbers a row. The largest is left out of the sums because it
weighs most where a row is nearly certain: there `rest` is what the scores need. NaN is carried by `first`. A shard of one class
has a `second` of -inf; a shard of none has no state.
"""

from __future__ import annotations

from dynams_kernels._kinds import BIT, LABELLED_KINDS, LOGSUMEXP, mask_of

SUMMED_KINDS = mask_of(("probability", "loss", "el2n", "entropy", "confidence", LOGSUMEXP))
_LABELLED = mask_of(LABELLED_KINDS)
# Stands for a class that a shard does not have: past all that there are.
NO_CLASS = (1 << 31) - 1
# exp of it is 0; finite, so that 0 * it is 0 where 0 * -inf would be NaN.
LEAST_EXPONENT = -10000.0


def state_parts(kinds: int) -> tuple[str, ...]:
    """The names of a state's floats, in order, that these kinds need."""
    needed = (
        ("rest", SUMMED_KINDS),
        ("squares", BIT["el2n"]),
        ("shifted", BIT["entropy"]),
        ("own", _LABELLED),
    )
    return ("first", "second", *(name for name, mask in needed if kinds & mask))
