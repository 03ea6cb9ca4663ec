"""Trains a small causal language model on the tokens it can still learn: those whose loss exceeds a reference model's most.

    python examples/reducible_tokens.py --vocabulary 1000 --steps 20 --reference-steps 20

The hardest tokens include those that nobody can predict. A reference model, trained shortly on other text, tells them apart:
what it cannot predict either has a small excess loss (RHO-LOSS, Mindermann et al. 2022; Rho-1, Lin et al. 2024). Both losses
come from `dynams_kernels.linear_scores`, which stores no logits. The reference's are computed here once a batch, which costs its
forward pass; where the text is walked more than once, storing them by token costs it once in all.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from language_model import (
    Choice,
    all_tokens,
    held_out_loss,
    options_of,
    small_model,
    smallest_tokens,
    train,
)
from text_batches import Batch, texts_of, train_tokenizer, windows
from torch import Tensor, nn

from dynams_kernels import linear_scores


def most_reducible_tokens(reference: nn.Module, keep: float = 0.6, quota: str = "batch") -> Choice:
    """Keeps the tokens of the largest excess loss: the model's minus the reference's."""
    reference.eval()

    def choose(hidden: Tensor, weight: Tensor, batch: Batch) -> Tensor:
        known = reference.base_model(input_ids=batch.inputs, use_cache=False).last_hidden_state
        head = reference.get_output_embeddings().weight
        irreducible = linear_scores(known, head, ["loss"], labels=batch.labels)["loss"]
        losses = linear_scores(hidden, weight, ["loss"], labels=batch.labels)["loss"]
        return smallest_tokens(irreducible - losses, batch, keep, quota)

    return choose


def main(arguments: Sequence[str] | None = None) -> float:
    """Trains the reference, then the model, and tells both losses on held-out text."""
    parser = options_of(argparse.ArgumentParser(description=__doc__.splitlines()[0]))
    parser.add_argument("--reference-steps", type=int, default=100)
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    training = texts_of("training", options.megabytes)
    tokenizer = train_tokenizer(training, options.vocabulary)
    data, other, held_out = (
        windows(tokenizer, texts, options.length)
        for texts in (
            training,
            texts_of("reference", options.megabytes),
            texts_of("held out", options.megabytes),
        )
    )
    reference, model = (
        small_model(options.vocabulary, options.width, options.layers, options.length).to(
            options.device
        )
        for _ in range(2)
    )
    autocast = torch.bfloat16 if options.bf16 else None

    train(options, reference, other, all_tokens, options.reference_steps)
    aimed = held_out_loss(reference, held_out, options.batch, autocast)
    choose = most_reducible_tokens(reference, options.keep, options.quota)
    steps, loss = train(options, model, data, choose)
    found = held_out_loss(model, held_out, options.batch, autocast)
    print(
        f"{steps} steps on the most reducible tokens: their loss {loss:.3f}, "
        f"held-out loss {found:.3f}, the reference's {aimed:.3f}"
    )
    return found


if __name__ == "__main__":
    main()
