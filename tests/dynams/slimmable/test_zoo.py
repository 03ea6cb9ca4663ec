"""Networks of timm, torchvision and transformers: half the width is the library's own network of half the size."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from foreign_networks import stir
from torch import Tensor, nn

import dynams_kernels as dk
import torchvision_ops
from dynams import slimmable

WORDS = 31


def library(name: str) -> Any:
    """A library that may be missing, or built for another torch, which it tells by any error."""
    torchvision_ops.declare()
    try:
        return importlib.import_module(name)
    except Exception as error:
        pytest.skip(f"{name}: {error}")


def timm_vit(part: int) -> nn.Module:
    vit = library("timm").models.vision_transformer.VisionTransformer
    sizes = {"embed_dim": 24 // part, "num_heads": 4 // part, "depth": 2}
    options = {"qk_norm": True, "init_values": 0.5, "drop_path_rate": 0.2}
    return vit(img_size=32, patch_size=8, num_classes=7, **sizes, **options)


def timm_resnet(part: int) -> nn.Module:
    resnet = library("timm").models.resnet
    channels = tuple(count // part for count in (8, 16, 24, 32))
    return resnet.ResNet(
        resnet.BasicBlock,
        (1, 1, 1, 1),
        num_classes=7,
        stem_width=8 // part,
        stem_type="deep",
        channels=channels,
        avg_down=True,
        drop_path_rate=0.2,
    )


def timm_convnext(part: int) -> nn.Module:
    convnext = library("timm").models.convnext.ConvNeXt
    dims = tuple(count // part for count in (8, 16, 24, 32))
    return convnext(num_classes=7, depths=(1, 1, 1, 1), dims=dims, ls_init_value=0.5)


def timm_densenet(part: int) -> nn.Module:
    densenet = library("timm").models.densenet.DenseNet
    return densenet(8 // part, block_config=(2, 2), num_classes=7)


def timm_efficientnet(part: int) -> nn.Module:
    library("timm")
    from timm.models._efficientnet_builder import decode_arch_def, round_channels
    from timm.models.efficientnet import EfficientNet

    stages = [[f"ds_r1_k3_s1_e1_c{8 // part}_se0.25"], [f"ir_r2_k5_s2_e4_c{16 // part}_se0.25"]]
    return EfficientNet(
        decode_arch_def(stages),
        num_classes=7,
        num_features=40 // part,
        stem_size=8 // part,
        round_chs_fn=partial(round_channels, divisor=1),
        drop_path_rate=0.2,
    )


def torchvision_vit(part: int) -> nn.Module:
    vit = library("torchvision").models.VisionTransformer
    sizes = {"hidden_dim": 24 // part, "num_heads": 4 // part, "mlp_dim": 40 // part}
    model = vit(image_size=32, patch_size=8, num_layers=2, num_classes=7, **sizes)
    nn.init.normal_(model.heads.head.weight)
    return model


SIZES = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4}
LANGUAGE = {"vocab_size": WORDS, "num_hidden_layers": 2, "max_position_embeddings": 16}


def halves(sizes: dict[str, int], part: int) -> dict[str, int]:
    return {name: size // part for name, size in sizes.items()}


def gpt2(part: int) -> nn.Module:
    hf = library("transformers")
    sizes = halves({"n_embd": 24, "n_head": 4, "n_inner": 40}, part)
    words = {"vocab_size": WORDS, "n_positions": 16, "bos_token_id": None, "eos_token_id": None}
    return hf.GPT2LMHeadModel(hf.GPT2Config(n_layer=2, **words, **sizes))


def causal(name: str, part: int) -> nn.Module:
    hf = library("transformers")
    sizes = halves(SIZES | {"num_key_value_heads": 2}, part)
    config = getattr(hf, f"{name}Config")(head_dim=6, **LANGUAGE, **sizes)
    return getattr(hf, f"{name}ForCausalLM")(config)


def hf_vit(part: int) -> nn.Module:
    hf = library("transformers")
    shape = {"image_size": 32, "patch_size": 8, "num_labels": 7, "num_hidden_layers": 2}
    return hf.ViTForImageClassification(hf.ViTConfig(**shape, **halves(SIZES, part)))


IMAGES: dict[str, Callable[[int], nn.Module]] = {
    "timm vit": timm_vit,
    "timm resnet": timm_resnet,
    "timm convnext": timm_convnext,
    "timm densenet": timm_densenet,
    "timm efficientnet": timm_efficientnet,
    "torchvision vit": torchvision_vit,
    "transformers vit": hf_vit,
}
TOKENS: dict[str, Callable[[int], nn.Module]] = {
    "gpt2": gpt2,
    "llama": partial(causal, "Llama"),
    "qwen2": partial(causal, "Qwen2"),
    "qwen3": partial(causal, "Qwen3"),
}


def made(name: str, part: int = 1) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = (IMAGES | TOKENS)[name](part).double()
        stir(model)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                nn.init.uniform_(parameter, 0.5, 1.5)
        return model


def batch(name: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if name in TOKENS:
        return torch.randint(WORDS, (3, 9), generator=generator)
    return torch.randn(3, 3, 32, 32, generator=generator, dtype=torch.float64)


def run(model: nn.Module, *args: object) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(1)  # for dropout
        output = model(*args)
    return output if isinstance(output, Tensor) else output.logits


@pytest.mark.parametrize("name", IMAGES | TOKENS)
def test_full_width_is_the_network_and_half_of_it_the_librarys_own_of_half_the_size(
    name: str,
) -> None:
    model, half = made(name), made(name, 2)
    network = slimmable.convert(model, example=batch(name))
    half.load_state_dict(network.plain(0.5).network.state_dict())
    for training in (False, True):
        for each in (model, network, half):
            each.train(training)
        assert torch.equal(run(network, batch(name)), run(model, batch(name)))
        wanted = run(half, batch(name))
        torch.testing.assert_close(run(network, batch(name), 0.5), wanted, rtol=1e-6, atol=1e-6)
    fewer = batch(name)[:2, :5]  # sequences shorter than the example's, too
    torch.testing.assert_close(run(network, fewer, 0.5), run(half, fewer), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", TOKENS)
def test_a_language_models_slim_head_scores_every_token(name: str) -> None:
    network, ids = slimmable.convert(made(name)).eval(), batch(name)
    kinds = ("gap", "loss", "entropy")
    with torch.no_grad():
        features, head = network.features(ids, 0.5), network.head
        assert features.shape == (*ids.shape, 12)
        wanted = dk.scores(network(ids, 0.5), kinds, labels=ids)
        found = dk.linear_scores(features, head.weight, kinds, head.bias, width=12, labels=ids)
    for kind in kinds:
        assert found[kind].shape == ids.shape
        torch.testing.assert_close(found[kind], wanted[kind])
