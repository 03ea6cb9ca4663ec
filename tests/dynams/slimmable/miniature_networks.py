"""Every miniature by its name."""

from __future__ import annotations

from miniature import Miniature
from miniature_branches import (
    CSP,
    CSP_TABLE,
    GHOST,
    SELECTIVE,
    SPLIT,
    Ghost,
    SelectiveKernel,
    SplitAttention,
    csp_at,
    ghost_at,
    selective_at,
    split_at,
)
from miniature_convolutions import (
    CONVNEXT,
    DENSENET,
    EFFICIENTNET,
    ConvNeXt,
    DenseNet,
    EfficientNet,
    convnext_at,
    densenet_at,
    efficientnet_at,
)
from miniature_language_models import BLOOM, GPT, GPT_TABLE, LLAMA, Bloom, Llama, bloom_at, llama_at
from miniature_transformers import (
    SWIN,
    TORCH_VIT,
    VIT,
    Swin,
    TorchViT,
    ViT,
    swin_at,
    torch_vit_at,
    vit_at,
)

MINIATURES = {
    "vit": Miniature(ViT, vit_at, VIT),
    "swin": Miniature(Swin, swin_at, SWIN),
    "torch_vit": Miniature(TorchViT, torch_vit_at, TORCH_VIT),
    "convnext": Miniature(ConvNeXt, convnext_at, CONVNEXT),
    "efficientnet": Miniature(EfficientNet, efficientnet_at, EFFICIENTNET),
    "densenet": Miniature(DenseNet, densenet_at, DENSENET),
    "gpt": Miniature(GPT, vit_at, GPT_TABLE, tokens=True),
    "llama": Miniature(Llama, llama_at, LLAMA, tokens=True),
    "bloom": Miniature(Bloom, bloom_at, BLOOM, tokens=True),
    "csp": Miniature(CSP, csp_at, CSP_TABLE),
    "ghost": Miniature(Ghost, ghost_at, GHOST),
    "split_attention": Miniature(SplitAttention, split_at, SPLIT),
    "selective_kernel": Miniature(SelectiveKernel, selective_at, SELECTIVE),
}
