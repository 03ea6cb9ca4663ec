"""Real text for the language-model examples, with no download: the Python source files of this installation.

The standard library's modules (and any packages named) are split by file into training, reference and held-out text, cut into
tokens by a byte-level BPE that is trained on the spot, and laid out as windows of equal length. A window never reaches beyond its
file: the rest of a file's last window is padding, whose labels are ignored.
"""

from __future__ import annotations

import json
import sysconfig
import zlib
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from torch import Tensor

IGNORED = -100  # the label of padding, as `F.cross_entropy` and `dynams_kernels` know it
PADDING = "<padding>"  # the token 0

# Of 20 files: 1 is held out, 3 are the reference model's, 16 are trained on.
PARTS = {"held out": range(1), "reference": range(1, 4), "training": range(4, 20)}


class Batch(NamedTuple):
    """Token windows: inputs and their next tokens (B, T), and how many labels of each window are not ignored."""

    inputs: Tensor
    labels: Tensor
    valid: list[int]


def texts_of(part: str, megabytes: float, packages: Iterable[str] = ()) -> list[str]:
    """The files of one part of the text: of the first `megabytes` of the standard library and of each package named."""
    return [text for name, text in _sources(megabytes, packages) if _drawn(name) in PARTS[part]]


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE of at most `vocabulary` tokens (at least 257: every byte, and padding)."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PADDING],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def first_merges(tokenizer: Tokenizer, vocabulary: int) -> Tokenizer:
    """The tokenizer that training would have given had it stopped at `vocabulary` tokens: merges come in order of their rank."""
    told = json.loads(tokenizer.to_str())
    model = told["model"]
    model["vocab"] = {
        word: number for word, number in model["vocab"].items() if number < vocabulary
    }
    model["merges"] = [pair for pair in model["merges"] if "".join(pair) in model["vocab"]]
    return Tokenizer.from_str(json.dumps(told))


def windows(tokenizer: Tokenizer, texts: list[str], length: int) -> Batch:
    """Every text as windows of `length` inputs, each labelled with the token after it."""
    padding = tokenizer.token_to_id(PADDING)
    rows = []
    for encoded in tokenizer.encode_batch_fast(texts):
        ids = torch.tensor(encoded.ids)
        rows += [
            ids[start : start + length + 1] for start in range(0, max(0, len(ids) - 1), length)
        ]
    inputs = torch.full((len(rows), length), padding)
    labels = torch.full((len(rows), length), IGNORED)
    for number, ids in enumerate(rows):
        inputs[number, : len(ids) - 1] = ids[:-1]
        labels[number, : len(ids) - 1] = ids[1:]
    return Batch(inputs, labels, [len(ids) - 1 for ids in rows])


def batches(
    data: Batch, size: int, seed: int, device: torch.device | str = "cpu"
) -> Iterator[Batch]:
    """Batches without end: the windows in a new random order every time all were given, without the few that are left over."""
    order = torch.Generator().manual_seed(seed)
    inputs, labels = data.inputs.to(device), data.labels.to(device)
    if size > len(inputs):
        raise ValueError(f"size: got {size}, want at most the {len(inputs)} windows of the text")
    while True:
        for chosen in torch.randperm(len(inputs), generator=order).split(size):
            if len(chosen) == size:
                # The labels' counts come from the host, so that no step waits for the device.
                valid = [data.valid[number] for number in chosen.tolist()]
                rows = chosen.to(device)
                yield Batch(inputs[rows], labels[rows], valid)


def _sources(megabytes: float, packages: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Names and contents of source files, in an order of their own that any installation repeats."""
    for root in (Path(sysconfig.get_paths()["stdlib"]), *map(_folder, packages)):
        left = megabytes * 1e6
        names = [path.relative_to(root) for path in root.rglob("*.py")]
        names = [name for name in names if "site-packages" not in name.parts]
        for name in sorted(names, key=lambda name: zlib.crc32(name.as_posix().encode())):
            if left <= 0:
                break
            text = (root / name).read_text(encoding="utf-8", errors="replace")
            left -= len(text)
            yield f"{root.name}/{name.as_posix()}", text


def _drawn(name: str) -> int:
    return zlib.crc32(b"part of " + name.encode()) % 20


def _folder(package: str) -> Path:
    found = find_spec(package)
    if found is None or found.origin is None:
        raise ValueError(f"packages: got {package!r}, want names of installed packages")
    return Path(found.origin).parent
