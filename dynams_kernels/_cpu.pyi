from collections.abc import Callable

INTERFACE: str
ROW_STATE_BYTES: int

def supported_isas() -> list[str]: ...
def team_kind() -> str: ...
def label_outside(labels: int, count: int, classes: int, ignored: int, /) -> int: ...
def row_scores(
    isa: int,
    logits: int,
    dtype: int,
    rows: int,
    classes: int,
    row_stride: int,
    bias: int,
    labels: int,
    class_distances: int,
    distances_stride: int,
    kinds: int,
    scores: int,
    scores_stride: int,
    pairs: int,
    states: int,
    class_offset: int,
    is_first: bool,
    is_last: bool,
    threads: int,
    /,
) -> None: ...
def finish_rows(
    isa: int,
    dtype: int,
    rows: int,
    classes: int,
    labels: int,
    kinds: int,
    scores: int,
    scores_stride: int,
    pairs: int,
    states: int,
    runs: int,
    run_stride: int,
    run_classes: int,
    /,
) -> None: ...
def call_in_team(function: Callable[[], object], threads: int, /) -> None: ...
def smallest_k(
    isa: int,
    values: int,
    dtype: int,
    count: int,
    k: int,
    by_value: bool,
    last: int,
    out_values: int,
    out_indices: int,
    fresh: bool,
    threads: int,
    /,
) -> None: ...
def mark_smallest_grouped(
    isa: int,
    values: int,
    dtype: int,
    groups: int,
    count: int,
    group_count: int,
    each: int,
    fraction: float,
    words: int,
    threads: int,
    /,
) -> int: ...
def write_marked(
    isa: int,
    values: int,
    dtype: int,
    count: int,
    words: int,
    marked: int,
    by_value: bool,
    out_values: int,
    out_indices: int,
    threads: int,
    /,
) -> None: ...
def count_digits(
    values: int,
    dtype: int,
    count: int,
    kept: bool,
    low: int,
    shift: int,
    bits: int,
    counts: int,
    threads: int,
    /,
) -> None: ...
def keep_digits(
    isa: int,
    values: int,
    dtype: int,
    count: int,
    low: int,
    shift: int,
    bits: int,
    keys: int,
    kept: int,
    counts: int,
    threads: int,
    /,
) -> None: ...
