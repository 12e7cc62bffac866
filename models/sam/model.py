"""SAM: image encoder, prompt encoder and mask decoder together (segment-anything `modeling/sam.py`)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.sam.config import SamConfig
from models.sam.image_encoder import ImageEncoderViT
from models.sam.mask_decoder import EmbeddedImage, MaskDecoder
from models.sam.prompt_encoder import PromptEncoder
from models.sam.prompts import Prompts

__all__ = ["Prompts", "Sam"]


class Sam(nn.Module):
    """Segments what prompts point at. Encode an image once, then ask for as many prompts as you like.

    S is the input size (`config.image_size`), E the embedding's side, C its width.
    """

    def __init__(
        self,
        config: SamConfig,
        image_encoder: ImageEncoderViT,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
    ) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder

    @property
    def device(self) -> torch.device:
        return self.image_encoder.pos_embed.device

    @property
    def dtype(self) -> torch.dtype:
        return self.image_encoder.pos_embed.dtype

    def input_shape(self, height: int, width: int) -> tuple[int, int]:
        """To what an image is resized before `preprocess`: its longer side to S, rounded half up, at least a pixel."""
        scale = self.config.image_size / max(height, width)
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def mask_frame(self, height: int, width: int) -> tuple[int, tuple[int, int]]:
        """To what side low-resolution masks of an image of this input shape are enlarged, and what of it is image."""
        return self.config.image_size, (height, width)

    def preprocess(self, images: Tensor) -> Tensor:
        """RGB (B, 3, h, w), 0..255, h and w at most S -> normalised, zero padded at bottom and right (B, 3, S, S)."""
        size = self.config.image_size
        height, width = images.shape[-2:]
        if height > size or width > size:
            raise ValueError(f"images: {width} x {height} pixels exceed the model's {size}; resize the longer side")
        # From the config and not buffers, which a half-precision model would round.
        mean, std = torch.tensor([self.config.pixel_mean, self.config.pixel_std], device=self.device).view(2, 3, 1, 1)
        images = (images.to(self.device) - mean) / std
        return F.pad(images, (0, size - width, 0, size - height)).to(self.dtype)

    def encode_images(self, images: Tensor) -> Tensor:
        """Preprocessed images (B, 3, S, S) -> image embeddings (B, C, E, E)."""
        return self.image_encoder(images)

    def embed(self, images: Tensor) -> list[EmbeddedImage]:
        """Preprocessed images (B, 3, S, S), each by itself, as prompts of a SAM or of a SAM 2 meet it."""
        return [EmbeddedImage(one) for one in self.encode_images(images).split(1)]

    def predict_masks(
        self, image_embeddings: Tensor, prompts: Prompts, multimask_output: bool
    ) -> tuple[Tensor, Tensor]:
        """Low-resolution logits (B, M, 4E, 4E) and predicted IoU (B, M) of B prompts.

        image_embeddings: (B, C, E, E), one a prompt, or (1, C, E, E) for prompts on the same image.
        M is 1, or `num_multimask_outputs` with `multimask_output`.
        """
        sparse, dense = self.prompt_encoder(prompts)
        return self.mask_decoder(image_embeddings, self.prompt_encoder.dense_pe(), sparse, dense, multimask_output)
