"""Trains a small causal language model on the hardest tokens of each batch, whose logits are never stored.

    python examples/language_model.py --vocabulary 1000 --steps 20
    python examples/language_model.py --choose random --keep 0.6 --seconds 60     the baseline, at equal time

Each step runs the model's body on all tokens, as attention needs them; asks `dynams_kernels.linear_scores` how hard each token
is for the head, without gradient and without storing the (tokens, vocabulary) logits; keeps 60 % of the labelled tokens by
`smallest_k`; and computes the loss of those alone.

What that saves is the head's: its logits, their loss and their backward pass, for the tokens left out. The body's backward
pass runs for all positions. In units of one product hidden x weight, all tokens cost 3 (one forward, two backward), or 4 where
the loss forms the logits twice; the hardest 60 % cost 1 + 0.6 * 3 = 2.8 or 1 + 0.6 * 4 = 3.4, as the scores are a forward pass.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from text_batches import IGNORED, Batch, batches, texts_of, train_tokenizer, windows
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import LlamaConfig, LlamaForCausalLM

from dynams_kernels import linear_scores, smallest_k, smallest_k_grouped

# Which tokens of a batch to train on, by hidden states (B, T, D), head's weight (V, D) and labels: flat positions; None: all.
Choice = Callable[[Tensor, Tensor, Batch], Tensor | None]
# The mean loss of a head, by hidden states (n, D), weight (V, D) and labels (n,).
HeadLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


# ------------------------------------------------------------------------------ which tokens


def hardest_tokens(keep: float = 0.6, rank: str = "loss", quota: str = "batch") -> Choice:
    """Keeps the tokens that are hardest by `rank`.

    ``loss`` is what the token adds to the objective, so the tokens kept are those that the step can still gain from. ``gap``
    keeps those whose two likeliest continuations are closest, whichever is right; ``label`` those whose right one leads least.
    """

    def choose(hidden: Tensor, weight: Tensor, batch: Batch) -> Tensor:
        scores = linear_scores(hidden, weight, [rank], labels=batch.labels)[rank]
        return smallest_tokens(-scores if rank == "loss" else scores, batch, keep, quota)

    return choose


def random_tokens(keep: float = 0.6, quota: str = "batch") -> Choice:
    """Keeps labelled tokens at random: what any other choice has to beat."""

    def choose(hidden: Tensor, weight: Tensor, batch: Batch) -> Tensor:
        return smallest_tokens(
            torch.rand(hidden.shape[:2], device=hidden.device), batch, keep, quota
        )

    return choose


def all_tokens(hidden: Tensor, weight: Tensor, batch: Batch) -> None:
    """Keeps everything; the loss leaves out ignored labels."""


def smallest_tokens(scores: Tensor, batch: Batch, keep: float, quota: str = "batch") -> Tensor:
    """Flat positions, ascending, of the smallest of the (B, T) scores, of the whole batch or of each of its sequences.

    `keep` is a fraction of the tokens that have a label. The others are NaN here, which comes last in a selection, so that
    none of them is ever kept.
    """
    scores = scores.masked_fill(batch.labels == IGNORED, math.nan)
    if quota == "batch":
        return smallest_k(scores.flatten(), share(sum(batch.valid), keep)).indices
    sequences = torch.arange(len(scores), device=scores.device).repeat_interleave(scores.shape[1])
    shares = [share(valid, keep) for valid in batch.valid]
    return smallest_k_grouped(scores.flatten(), sequences, shares).indices


def share(count: int, keep: float) -> int:
    """How many `keep` of `count` are: at least one of any."""
    return min(count, max(1, math.floor(keep * count + 0.5)))


# ----------------------------------------------------------------------------- the head's loss


def torch_loss(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Plain torch, which stores the logits of the tokens kept."""
    return F.cross_entropy(F.linear(hidden, weight), labels, ignore_index=IGNORED)


def scores_loss(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """`linear_scores` again, which is differentiable and forms the logits a tile at a time, forward and backward."""
    return linear_scores(hidden, weight, ["loss"], labels=labels)["loss"].nanmean()


def liger_loss(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Liger's fused linear cross-entropy (package liger-kernel; GPU), which computes its gradients in the forward pass."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    return LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORED)(
        *_as_multiplied(weight, hidden), labels
    )


def cut_loss(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Apple's cut cross-entropy (package cut-cross-entropy; GPU)."""
    from cut_cross_entropy import linear_cross_entropy

    return linear_cross_entropy(*_as_multiplied(hidden, weight), labels, ignore_index=IGNORED)


LOSSES: dict[str, HeadLoss] = {
    "torch": torch_loss,
    "scores": scores_loss,
    "liger": liger_loss,
    "cut": cut_loss,
}


def _as_multiplied(*operands: Tensor) -> tuple[Tensor, ...]:
    """The operands in the dtype in which autocast would multiply them: kernels from elsewhere take what they are given."""
    device = operands[0].device.type
    if not torch.is_autocast_enabled(device):
        return operands
    return tuple(operand.to(torch.get_autocast_dtype(device)) for operand in operands)


# ------------------------------------------------------------------------------------ training


def training_step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    choose: Choice,
    head_loss: HeadLoss = torch_loss,
    autocast: torch.dtype | None = None,
    done: Callable[[str], None] = lambda part: None,
) -> Tensor:
    """One step on the tokens that `choose` keeps; their mean loss. `done` is told each part as it ends."""
    with torch.autocast(batch.inputs.device.type, autocast, enabled=autocast is not None):
        hidden = model.base_model(input_ids=batch.inputs, use_cache=False).last_hidden_state
        weight = model.get_output_embeddings().weight
        done("body forward")
        with torch.no_grad():
            kept = choose(hidden, weight, batch)
        done("choice")
        tokens, labels = hidden.flatten(0, 1), batch.labels.flatten()
        if kept is not None:
            tokens, labels = tokens.index_select(0, kept), labels.index_select(0, kept)
        loss = head_loss(tokens, weight, labels)
        done("head loss")
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    done("backward")
    optimiser.step()
    done("optimiser")
    return loss.detach()


@torch.no_grad()
def held_out_loss(
    model: nn.Module, data: Batch, size: int, autocast: torch.dtype | None = None
) -> float:
    """The mean loss of all labelled tokens, by plain torch."""
    device = next(model.parameters()).device
    total = torch.zeros((), device=device)
    for inputs, labels in zip(data.inputs.split(size), data.labels.split(size), strict=True):
        with torch.autocast(device.type, autocast, enabled=autocast is not None):
            hidden = model.base_model(input_ids=inputs.to(device), use_cache=False)[0].flatten(0, 1)
            weight = model.get_output_embeddings().weight
            # A few rows at a time: float32 logits of a whole batch would be the largest tensor by far.
            for rows, wanted in zip(hidden.split(4096), labels.flatten().split(4096), strict=True):
                logits = F.linear(rows, weight).float()
                total += F.cross_entropy(logits, wanted.to(device), reduction="sum")
    return total.item() / sum(data.valid)


def small_model(vocabulary: int, width: int, layers: int, length: int) -> nn.Module:
    """A Llama of random weights, whose head shares its weight with the embeddings."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config)


def until(steps: int | None, seconds: float | None) -> Iterator[int]:
    """Numbers of steps, until there were enough or the time is over."""
    begin = time.perf_counter()
    number = 0
    while (steps is None or number < steps) and (
        seconds is None or time.perf_counter() - begin < seconds
    ):
        yield number
        number += 1


def options_of(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """What this example and its relatives take."""
    parser.add_argument(
        "--vocabulary", type=int, default=1000, help="tokens of the BPE, at least 257"
    )
    parser.add_argument("--width", type=int, default=128, help="of the hidden states")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--length", type=int, default=128, help="tokens of a sequence")
    parser.add_argument("--batch", type=int, default=8, help="sequences of a step")
    parser.add_argument(
        "--megabytes", type=float, default=2.0, help="of the standard library's source to read"
    )
    parser.add_argument("--steps", type=int, help="default: 100, where no --seconds are given")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--keep", type=float, default=0.6, help="fraction of the labelled tokens")
    parser.add_argument(
        "--quota",
        choices=("batch", "sequence"),
        default="batch",
        help="of what --keep is a fraction",
    )
    parser.add_argument(
        "--loss", choices=LOSSES, default="torch", help="what computes the head's loss"
    )
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bf16", action="store_true", help="under bfloat16 autocast")
    parser.add_argument("--seed", type=int, default=0)
    return parser  # fmt: skip


def train(
    options: argparse.Namespace,
    model: nn.Module,
    data: Batch,
    choose: Choice,
    steps: int | None = None,
) -> tuple[int, float]:
    """Trains as the options say, or so many steps; the steps taken, and the loss of the tokens kept at the last one."""
    optimiser = torch.optim.AdamW(model.parameters(), options.rate, betas=(0.9, 0.95))
    autocast = torch.bfloat16 if options.bf16 else None
    source = batches(data, options.batch, options.seed, options.device)
    end = (options.steps, options.seconds) if steps is None else (steps, None)
    if end == (None, None):
        end = (100, None)
    taken, loss = 0, torch.tensor(math.nan)
    for step in until(*end):
        loss = training_step(model, optimiser, next(source), choose, LOSSES[options.loss], autocast)
        taken = step + 1
    return taken, loss.item()


def main(arguments: Sequence[str] | None = None) -> float:
    """Trains a model and tells its loss on held-out text."""
    parser = options_of(argparse.ArgumentParser(description=__doc__.splitlines()[0]))
    parser.add_argument("--choose", choices=("hardest", "random", "all"), default="hardest")
    parser.add_argument(
        "--rank", choices=("loss", "gap", "label"), default="loss", help="what makes a token hard"
    )
    options = parser.parse_args(arguments)  # fmt: skip

    torch.manual_seed(options.seed)
    training = texts_of("training", options.megabytes)
    tokenizer = train_tokenizer(training, options.vocabulary)
    data = windows(tokenizer, training, options.length)
    held_out = windows(tokenizer, texts_of("held out", options.megabytes), options.length)
    model = small_model(options.vocabulary, options.width, options.layers, options.length)
    model.to(options.device)

    choices: dict[str, Choice] = {
        "hardest": hardest_tokens(options.keep, options.rank, options.quota),
        "random": random_tokens(options.keep, options.quota),
        "all": all_tokens,
    }
    steps, loss = train(options, model, data, choices[options.choose])
    found = held_out_loss(model, held_out, options.batch, torch.bfloat16 if options.bf16 else None)
    print(
        f"{steps} steps on {options.choose} tokens: their loss {loss:.3f}, held-out loss {found:.3f}"
    )
    return found


if __name__ == "__main__":
    main()
