"""Networks of timm, torchvision and transformers that `networks.py` tries: how each is made, and a batch for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

# The list that an aim is set for, then more that people use.
TIMM = """resnet18 resnet26d seresnet18 regnetx_002 mobilenetv3_small_100 efficientnet_b0 efficientnet_lite0
    densenet121 rexnet_100 repvgg_a0 resnetv2_50 cspresnet50 ghostnet_100 mobileone_s0 xception41 skresnet18
    convnext_tiny vit_tiny_patch16_224 vit_small_patch16_224 mobilenetv2_100 resnext50_32x4d
    deit_tiny_patch16_224""".split()
MORE_TIMM = """swin_tiny_patch4_window7_224 mixer_s16_224 coatnet_nano_rw_224 maxvit_rmlp_pico_rw_256 edgenext_xx_small
    levit_128s mobilevit_xxs hrnet_w18_small dla34 nfnet_l0 eca_nfnet_l0 regnety_002
    resnext26ts tf_efficientnetv2_b0 res2net50_14w_8s resnest14d cspdarknet53 poolformer_s12 pit_ti_224
    convmixer_768_32 resmlp_12_224 efficientformer_l1 fastvit_t8 pvt_v2_b0 mobilenetv4_conv_small
    lcnet_050 mixnet_s ese_vovnet19b_dw dpn48b""".split()
TORCHVISION = """resnet18 vit_b_16 mobilenet_v3_small efficientnet_b0 densenet121 convnext_tiny regnet_y_400mf googlenet
    inception_v3 shufflenet_v2_x0_5 mnasnet0_5 squeezenet1_1 swin_t""".split()

# The side of images for networks that take any; transformers, and what needs more pixels, have theirs.
SIDE = 64
SIDES = {"inception_v3": 299, "mixer_s16_224": 224, "resmlp_12_224": 224}
CLASSES = 1000


@dataclass(frozen=True)
class Candidate:
    """A network to try.

    Attributes:
        library: where it is from.
        name: what it is called there.
        make: makes it, with random weights.
        listed: whether it is of the list that an aim is set for.
        tokens: it takes tokens and predicts the next ones; otherwise it takes images.
    """

    library: str
    name: str
    make: Callable[[], nn.Module] = field(repr=False)
    listed: bool = False
    tokens: bool = False

    def batch(self, model: Any) -> tuple[Tensor, Tensor]:
        """Inputs for the network, and labels."""
        generator = torch.Generator().manual_seed(0)
        if self.tokens:
            words = model.config.vocab_size
            drawn = torch.randint(words, (2, 4, 12), generator=generator)
            return drawn[0], drawn[1]
        side = _side(model, self.name)
        count = 4 if side <= SIDE else 2
        images = torch.randn(count, 3, side, side, generator=generator)
        classes = model.config.num_labels if hasattr(model, "config") else CLASSES
        return images, torch.randint(classes, (count,), generator=generator)


def candidates(library: str) -> list[Candidate]:
    """The networks of a library.

    Raises:
        ImportError: it is not installed.
    """
    if library == "timm":
        from timm import create_model

        return [
            Candidate("timm", name, lambda name=name: _timm(create_model, name), name in TIMM)
            for name in (*TIMM, *MORE_TIMM)
        ]
    if library == "torchvision":
        from torchvision.models import get_model

        return [
            Candidate("torchvision", name, lambda name=name: get_model(name, **_options(name)))
            for name in TORCHVISION
        ]
    return _transformers()


def _timm(create_model: Callable[..., nn.Module], name: str) -> nn.Module:
    try:
        return create_model(name, drop_path_rate=0.1)
    except TypeError:
        return create_model(name)  # it has no stochastic depth


def _options(name: str) -> dict[str, Any]:
    if name == "vit_b_16":
        return {"image_size": 64}
    # These draw their weights slowly.
    return {"init_weights": False} if name in ("googlenet", "inception_v3") else {}


def _transformers() -> list[Candidate]:
    import transformers as hf

    common = {"vocab_size": 211, "use_cache": False}
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    }
    grouped = sizes | {"num_key_value_heads": 2}
    gpt2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
    gpt2 |= {"bos_token_id": None, "eos_token_id": None}
    images = sizes | {"image_size": 64, "num_labels": 10}
    del images["max_position_embeddings"]
    language: dict[str, Callable[[], nn.Module]] = {
        "GPT2LMHeadModel": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**common, **gpt2)),
        "LlamaForCausalLM": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**common, **grouped)),
        "Qwen2ForCausalLM": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**common, **grouped)),
        "Qwen3ForCausalLM": lambda: hf.Qwen3ForCausalLM(
            hf.Qwen3Config(**common, **grouped, head_dim=16)
        ),
    }
    return [
        *(Candidate("transformers", name, make, tokens=True) for name, make in language.items()),
        Candidate(
            "transformers",
            "ViTForImageClassification",
            lambda: hf.ViTForImageClassification(hf.ViTConfig(**images)),
        ),
    ]


def _side(model: Any, name: str) -> int:
    config = getattr(model, "config", None) or getattr(model, "pretrained_cfg", None) or {}
    if not isinstance(config, dict):
        return int(config.image_size)
    if hasattr(model, "image_size"):
        return int(model.image_size)
    if config.get("fixed_input_size"):
        return int(config["input_size"][-1])
    return SIDES.get(name, SIDE)
