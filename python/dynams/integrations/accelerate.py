"""Accelerate: the loader of a selection, dealt among the ranks, and the length of its learning-rate schedule.

`Accelerator.prepare` deals a loader's batches by itself, and fills up the last ones with samples from the epoch's
start. The loader made here gives every selected sample once and all ranks equally many batches, and `prepare`
leaves it as it is. The rest is Accelerate's own: devices, `accumulate`, `set_epoch`, and, after
`accelerator.register_for_checkpointing(sampler)`, `save_state` and `load_state`.
"""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader, Dataset, IterableDataset

from dynams.checks import whole
from dynams.packages import needs
from dynams.selection import SubsetSampler

with needs("accelerate"):
    from accelerate import Accelerator
    from accelerate.data_loader import prepare_data_loader


def prepare_loader(
    accelerator: Accelerator,
    dataset: Dataset[Any],
    sampler: SubsetSampler,
    batch_size: int,
    *,
    drop_last: bool = False,
    **options: Any,
) -> Any:
    """Make and prepare the loader of a sampler's selection, in place of `prepare(DataLoader(dataset, ...))`.

    In a loop::

        loader = prepare_loader(accelerator, train_set, sampler, batch_size=128, num_workers=4)
        accelerator.register_for_checkpointing(sampler)
        for epoch in range(sampler.epoch or 0, epochs):
            loader.set_epoch(epoch)
            for images, labels in loader:
                ...
                loader.batch_sampler.advance()  # counts the step: a state resumes behind it

    A loader resumes by itself: `skip_first_batches` belongs to loops that do not call `advance`.

    Args:
        accelerator: whose ranks, device, `split_batches` and `non_blocking` count. There is nothing to even out,
            so `even_batches` does not, nor does a stateful loader, as the sampler holds the position.
        dataset: of the sampler's samples.
        sampler: the same on all ranks.
        batch_size: of each rank, or, where the accelerator splits batches, of all together.
        drop_last: only full batches.
        options: further ones of the `DataLoader`.

    Returns:
        A prepared loader, whose `batch_sampler` is this rank's share.

    Raises:
        ValueError: the accelerator would give several ranks the same batches, or one those of others; the data
            set is of another size than the sampler's; or a batch cannot be split.
        TypeError: `dataset` has no length or no items, or `sampler` is no `SubsetSampler`, a share of one say.
    """
    _check_ranks(accelerator)
    _check_sampler(sampler)
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise TypeError(
            f"dataset: got {type(dataset).__name__}, want one with a length and items by index"
        )
    size = len(dataset)
    if size != sampler.num_samples:
        raise ValueError(
            f"dataset: got {size} samples, want {sampler.num_samples}, as many as the sampler's"
        )
    share = sampler.shard(
        accelerator.process_index,
        accelerator.num_processes,
        _of_each_rank(accelerator, batch_size),
        drop_last,
    )
    loader = prepare_data_loader(
        DataLoader(dataset, batch_sampler=share, **options),
        accelerator.device,
        num_processes=1,  # the batches are dealt
        process_index=0,
        put_on_device=accelerator.device_placement,
        rng_types=accelerator.rng_types.copy(),
        non_blocking=accelerator.non_blocking,
    )
    # No sample of the last batch is a double, for gather_for_metrics to cut off.
    loader._drop_last = True
    loader._is_accelerate_prepared = True  # should it be handed to `prepare` too
    return accelerator.prepare_data_loader(loader)


def scheduler_steps(
    accelerator: Accelerator, sampler: SubsetSampler, batch_size: int, *, drop_last: bool = False
) -> int:
    """Count how often Accelerate steps a prepared learning-rate scheduler in the whole training.

    That is at each step of the optimizer once for every rank, as if the scheduler had been planned for one
    process, or once where the accelerator splits batches. (With `step_scheduler_with_optimizer=False` the loop
    steps it, and this counts the optimizer's steps.)

        scheduler = OneCycleLR(optimizer, 0.1, total_steps=scheduler_steps(accelerator, sampler, 128))
        model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)

    Args:
        accelerator: whose ranks, `split_batches` and `gradient_accumulation_steps` count.
        sampler: of the training, made with `epochs`.
        batch_size: as of `prepare_loader`.
        drop_last: as of `prepare_loader`.

    Raises:
        ValueError: as of `sampler.total_steps`; a batch cannot be split; or `drop_last` comes with gradient
            accumulation.
        TypeError: as of `prepare_loader`.
    """
    _check_sampler(sampler)
    world: int = accelerator.num_processes
    gathered: int = accelerator.gradient_accumulation_steps
    batch_size = _of_each_rank(accelerator, batch_size)
    if not accelerator.gradient_state.sync_with_dataloader:  # gathers on into the next epoch
        steps = sampler.total_steps(batch_size, drop_last, world) // gathered
    elif drop_last and gathered > 1:
        raise ValueError(
            f"drop_last: got True with gradient_accumulation_steps={gathered}, want False: all ranks have "
            "equally many batches without it"
        )
    else:  # steps at the end of an epoch too, whatever was gathered until then
        steps = sampler.total_steps(batch_size * gathered, drop_last, world)
    once = accelerator.split_batches or not accelerator.step_scheduler_with_optimizer
    return steps if once else steps * world


def _of_each_rank(accelerator: Accelerator, batch_size: int) -> int:
    batch_size = whole("batch_size", batch_size, 1)
    world: int = accelerator.num_processes
    if not accelerator.split_batches:
        return batch_size
    if batch_size % world:
        raise ValueError(
            f"batch_size: got {batch_size}, want a multiple of {world}, the ranks that split_batches splits it for"
        )
    return batch_size // world


def _check_sampler(sampler: object) -> None:
    if not isinstance(sampler, SubsetSampler):
        raise TypeError(f"sampler: got {type(sampler).__name__}, want a SubsetSampler")


def _check_ranks(accelerator: Accelerator) -> None:
    if accelerator.dispatch_batches:
        raise ValueError(
            "dispatch_batches: got True, want None or False: every rank reads its own share"
        )
    mesh: Any = getattr(accelerator, "torch_device_mesh", None)
    parts = () if mesh is None else mesh.mesh_dim_names
    shared = [part for part in parts if not part.startswith("dp") and mesh[part].size() > 1]
    kind = str(accelerator.distributed_type)
    if shared or kind.endswith("MEGATRON_LM"):
        came = " and ".join(shared) or kind
        raise ValueError(
            f"accelerator: got {came}, whose ranks share batches, want data parallelism only"
        )
