"""CLIP: an image tower and a text tower into one space (facts: CLIP's published `model.py`; arXiv:2103.00020)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.clip.config import ClipConfig
from models.clip.efficientnet_tower import EfficientNetTower
from models.clip.resnet import ModifiedResNet
from models.clip.transformer import Transformer
from models.clip.vision_transformer import VisionTransformer

INITIAL_TEMPERATURE = 0.07
MAX_LOGIT_SCALE = 100.0


class Clip(nn.Module):
    """Compares images and texts. The text tower's parts stand here and not in a module of their own, as published.

    Features come as they leave the towers; `logits` brings them to unit length. D is `config.embed_dim`.
    """

    def __init__(self, config: ClipConfig, visual: VisionTransformer | ModifiedResNet | EfficientNetTower) -> None:
        super().__init__()
        self.config = config
        self.visual = visual
        self.transformer = Transformer(
            width=config.text_width,
            num_layers=config.text_layers,
            num_heads=config.text_heads,
            activation=config.activation,
            causal=True,
        )
        self.token_embedding = nn.Embedding(config.vocab_size, config.text_width)
        self.positional_embedding = nn.Parameter(
            nn.init.normal_(torch.empty(config.context_length, config.text_width), std=0.01)
        )
        self.ln_final = nn.LayerNorm(config.text_width)
        self.text_projection = nn.Parameter(
            nn.init.normal_(torch.empty(config.text_width, config.embed_dim), std=config.text_width**-0.5)
        )
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / INITIAL_TEMPERATURE)))
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    @property
    def device(self) -> torch.device:
        return self.text_projection.device

    @property
    def dtype(self) -> torch.dtype:
        return self.text_projection.dtype

    def encode_image(self, images: Tensor) -> Tensor:
        """Preprocessed images (B, 3, H, W) -> features (B, D).

        H and W may differ from `config.image_size`: position tables are interpolated.
        Raises ValueError if they are not multiples of `config.patch_size`.
        """
        return self.visual(self._checked(images))

    def pool_image(self, images: Tensor) -> Tensor:
        """Preprocessed images (B, 3, H, W) -> what the tower's trunk pools of them (B, F), which `encode_pooled` makes
        features of. Raises ValueError for other towers than EfficientNet-Lite0, and as `encode_image`."""
        return self._pooling_tower().pool(self._checked(images))

    def encode_pooled(self, pooled: Tensor) -> Tensor:
        """What `pool_image` gives (B, F) -> features (B, D)."""
        return self._pooling_tower().project(pooled)

    def _pooling_tower(self) -> EfficientNetTower:
        if not isinstance(self.visual, EfficientNetTower):
            raise ValueError("vision_layers: only EfficientNet-Lite0's pooled maps are projected to features")
        return self.visual

    def encode_regions(self, images: Tensor, masks: Tensor) -> Tensor:
        """Features of K regions of each image, from one pass over it: (B, 3, H, W), (B, K, h, w) -> (B, K, D).

        `masks` are 0 to 1, cover the same view as `images` and may have another resolution.
        Raises ValueError for other towers than a ModifiedResNet: they have no dense features that their pooling was
        trained on.
        """
        if not isinstance(self.visual, ModifiedResNet):
            raise ValueError("vision_layers: only a ModifiedResNet has mask-pooled features; use it, or crops")
        return self.visual.pool_regions(self.visual.feature_map(self._checked(images)), masks)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Token ids (B, L), L at most `config.context_length`, padded after the end of text -> features (B, D).

        The feature is that at the end of text, which has the highest id of the vocabulary. As no position sees a later
        one, what lies behind the last end of text of the batch is not computed.
        """
        if tokens.shape[-1] > self.config.context_length:
            raise ValueError(f"tokens: {tokens.shape[-1]} a text exceed context_length ({self.config.context_length})")
        end_of_text = tokens.argmax(dim=-1)
        tokens = tokens[:, : max(end_of_text.tolist(), default=0) + 1]
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        x = self.transformer(x)
        x = self.ln_final(x[torch.arange(len(x), device=x.device), end_of_text])
        return x @ self.text_projection

    def logits(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        """Scaled cosines of every image with every text: (..., N, D), (M, D) -> (..., N, M)."""
        cosines = F.normalize(image_features, dim=-1) @ F.normalize(text_features, dim=-1).T
        return self.logit_scale.exp() * cosines

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Preprocessed images (N, 3, H, W) and token ids (M, L) -> logits (N, M)."""
        return self.logits(self.encode_image(images), self.encode_text(tokens))

    @torch.no_grad()
    def cap_logit_scale(self) -> None:
        """Keeps logits from being scaled by more than 100 (section 2.5); to be called after every optimizer step."""
        self.logit_scale.clamp_(max=math.log(MAX_LOGIT_SCALE))

    def _checked(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        patch = self.config.patch_size
        if height % patch or width % patch or not height or not width:
            raise ValueError(f"images: {width} x {height} pixels are not positive multiples of patch_size ({patch})")
        return images.to(self.dtype)
