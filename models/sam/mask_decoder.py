"""SAM's mask decoder, in two steps: attend (which also predicts each mask's IoU), then make the masks worth making.

Facts: segment-anything `modeling/mask_decoder.py`, and for what SAM 2 adds (a score of whether the object is in sight,
finer features while masks are upscaled) that of `sam2`. Splitting it lets a caller upscale only what passes its
thresholds.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import LayerNorm2d, Mlp
from models.sam.skips import Skips
from models.sam.transformer import TwoWayTransformer, repeat_each

BLOCK_ENTRIES = 1 << 18  # of the features that a CPU upscales at a time: with what they become, about a core's cache


@dataclass(frozen=True)
class DecodedPrompts:
    """What the transformer says about B prompts; slot 0 of T is the single mask, the others the multimask outputs."""

    mask_tokens: Tensor  # (B, T, C)
    image_features: Tensor  # (B, C, E, E), attended, before upscaling
    predicted_iou: Tensor  # (B, T)
    object_score: Tensor | None = None  # (B,), above 0 if the object is in sight; SAM 2 alone has it
    skips: Skips | None = None  # of the G images, SAM 2's alone


@dataclass(frozen=True)
class EmbeddedImage:
    """An image as prompts meet it: its embedding (1, C, E, E), and SAM 2's finer features."""

    embedding: Tensor
    skips: Skips | None = None


class MaskDecoder(nn.Module):
    """Image embedding and encoded prompts -> mask logits, at four times the embedding's size, and predicted IoU.

    With `second` it is SAM 2's: one more token and head for the object score, convolutions for the finer features, and
    a predicted IoU between 0 and 1.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        transformer: TwoWayTransformer,
        num_multimask_outputs: int,
        iou_head_depth: int,
        iou_head_hidden_dim: int,
        second: bool = False,
    ) -> None:
        super().__init__()
        self.second = second
        self.num_mask_tokens = num_multimask_outputs + 1
        self.transformer = transformer
        self.iou_token = nn.Embedding(1, embed_dim)
        self.mask_tokens = nn.Embedding(self.num_mask_tokens, embed_dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(embed_dim, embed_dim // 4, kernel_size=2, stride=2),
            LayerNorm2d(embed_dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(embed_dim // 4, embed_dim // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            Mlp(embed_dim, embed_dim, embed_dim // 8, num_layers=3) for _ in range(self.num_mask_tokens)
        )
        self.iou_prediction_head = Mlp(embed_dim, iou_head_hidden_dim, self.num_mask_tokens, iou_head_depth)
        if second:
            self.obj_score_token = nn.Embedding(1, embed_dim)
            self.pred_obj_score_head = Mlp(embed_dim, embed_dim, 1, num_layers=3)
            self.conv_s0 = nn.Conv2d(embed_dim, embed_dim // 8, kernel_size=1)
            self.conv_s1 = nn.Conv2d(embed_dim, embed_dim // 4, kernel_size=1)

    def attend(
        self, image_embeddings: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor, skips: Skips | None = None
    ) -> DecodedPrompts:
        """image_embeddings: (G, C, E, E), for B a multiple of G; dense: (B or 1, C, E, E); image_pe: (1, C, E, E);
        sparse: (B, N, C); skips: of 1, G or B images.

        Each image serves the B/G prompts that follow one another, which is cheaper than repeating it (as long as dense
        has batch 1) and gives the same result.
        """
        leading = [self.obj_score_token.weight] if self.second else []
        output_tokens = torch.cat([*leading, self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([output_tokens.expand(len(sparse), -1, -1), sparse], dim=1)  # (B, 1 + T + N, C)
        if len(dense) > 1:
            image_embeddings = repeat_each(image_embeddings, len(dense))
        image = (image_embeddings + dense).flatten(2).transpose(1, 2)  # (B or 1, E*E, C)
        tokens, image = self.transformer(tokens, image, image_pe.flatten(2).transpose(1, 2))
        features = image.transpose(1, 2).unflatten(2, image_pe.shape[2:])  # (B, C, E, E)
        mask_tokens = tokens[:, len(leading) + 1 : len(leading) + 1 + self.num_mask_tokens]
        predicted_iou = self.finish_ratings(self.iou_prediction_head(tokens[:, len(leading)]))
        if not self.second:
            return DecodedPrompts(mask_tokens, features, predicted_iou)
        object_score = self.pred_obj_score_head(tokens[:, 0])[:, 0]
        return DecodedPrompts(mask_tokens, features, predicted_iou, object_score, skips)

    def finish_ratings(self, ratings: Tensor) -> Tensor:
        """The predicted IoU that outputs of the IoU head mean: in a SAM itself, in a SAM 2 its sigmoid."""
        return ratings.sigmoid() if self.second else ratings

    def skips(self, fine: Tensor, middle: Tensor) -> Skips:
        """SAM 2's pyramid levels (G, C, 4E, 4E) and (G, C, 2E, 2E), as upscaling adds them."""
        return Skips.of(self.conv_s0(fine), self.conv_s1(middle))

    def masks(self, decoded: DecodedPrompts, prompt_index: Tensor, mask_index: Tensor) -> Tensor:
        """Logits (K, 4E, 4E) of K masks, mask `mask_index[k]` (a slot of T) of prompt `prompt_index[k]`.

        Upscales the features of each prompt that occurs once; prompts and slots that do not occur cost nothing.
        """
        prompts, row = prompt_index.unique(return_inverse=True)
        slots, column = mask_index.unique(return_inverse=True)
        if len(prompts) == 0:
            side = 4 * decoded.image_features.shape[-1]
            return decoded.image_features.new_empty(0, side, side)
        tokens = decoded.mask_tokens[prompts]
        weights = [self.output_hypernetworks_mlps[slot](tokens[:, slot]) for slot in slots.tolist()]
        weight = torch.stack(weights, dim=2)  # (P, C/8, slots)
        logits = self._logits(decoded.image_features, prompts, weight, decoded.skips)  # (P, slots, 4E, 4E)
        return logits[row, column]

    def _logits(self, image_features: Tensor, prompts: Tensor, weights: Tensor, skips: Skips | None) -> Tensor:
        """Every mask of `weights` (P, C/8, slots) on the features of `prompts` (P,): (P, slots, 4E, 4E).

        `output_upscaling` as matrix products: a transposed convolution whose stride is its kernel makes each cell's
        2 x 2 from that cell alone. So cells go through in blocks that fit a cache, and stand side by side only when
        there is one number for each of their pixels.
        """
        size = image_features.shape[-1]
        features = image_features.flatten(2).transpose(1, 2)  # (B, E*E, C)
        cells, num_prompts = size * size, len(prompts)
        if features.device.type == "cpu":
            block = max(1, BLOCK_ENTRIES // features.shape[2])
            cells, num_prompts = min(block, cells), max(1, block // cells)
        logits = []
        for chosen, some in zip(prompts.split(num_prompts), weights.split(num_prompts), strict=True):
            own = None if skips is None else skips.of_prompts(chosen, len(features))
            strips = enumerate(features[chosen].split(cells, dim=1))
            upscaled = (self.upscale_cells(x, own and own.of_cells(number * cells, x.shape[1])) for number, x in strips)
            logits.append(torch.cat([x @ some for x in upscaled], dim=1))
        pixels = torch.cat(logits).transpose(1, 2).unflatten(2, (size, size, 2, 2, 2, 2))  # cell, then y, x twice
        return pixels.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(len(prompts), -1, 4 * size, 4 * size)

    def upscale_cells(self, x: Tensor, skips: Skips | None = None) -> Tensor:
        """`output_upscaling` of n cells, channels last: (P, n, C) -> (P, n*2*2*2*2, C/8), a cell's y and x twice."""
        first, norm, gelu, second, _ = self.output_upscaling
        assert isinstance(first, nn.ConvTranspose2d) and isinstance(second, nn.ConvTranspose2d)
        assert isinstance(norm, LayerNorm2d)
        x = _spread(x, first)
        x = x if skips is None else x + skips.middle
        x = gelu(F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps))
        x = _spread(x, second)
        return gelu(x if skips is None else x + skips.fine)

    def forward(
        self, image_embeddings: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor, multimask_output: bool
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, M, 4E, 4E) and predicted IoU (B, M): the multimask outputs, or the single mask with M = 1."""
        decoded = self.attend(image_embeddings, image_pe, sparse, dense)
        slots = torch.arange(self.num_mask_tokens, device=sparse.device)
        slots = slots[1:] if multimask_output else slots[:1]
        pairs = torch.cartesian_prod(torch.arange(len(sparse), device=sparse.device), slots)  # (B * M, 2)
        masks = self.masks(decoded, pairs[:, 0], pairs[:, 1])
        return masks.unflatten(0, (len(sparse), len(slots))), decoded.predicted_iou[:, slots]


def _spread(x: Tensor, convolution: nn.ConvTranspose2d) -> Tensor:
    """What a 2 x 2 transposed convolution of stride 2 makes of each of n cells: (P, n, C) -> (P, n*4, D)."""
    assert convolution.bias is not None
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (2*2*D, C)
    return F.linear(x, weight, convolution.bias.repeat(4)).unflatten(2, (4, -1)).flatten(1, 2)
