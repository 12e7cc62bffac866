"""SAM 2: segments what prompts point at, in an image, or in a frame of a clip by what it remembers of other frames.

Facts: `sam2` `modeling/sam2_base.py`, with the settings that all published checkpoints share. The modules' names are
those of the checkpoints; S is the input size, E = S / 16 the embedding's side, C its width, N = E * E, M the width of a
memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import Mlp
from models.sam.mask_decoder import DecodedPrompts, EmbeddedImage, MaskDecoder
from models.sam.prompt_encoder import PromptEncoder
from models.sam.prompts import Prompts
from models.sam.skips import Skips
from models.sam2.config import Sam2Config
from models.sam2.image_encoder import ImageEncoder, sine_positions
from models.sam2.memory_attention import MemoryAttention
from models.sam2.memory_bank import Recall
from models.sam2.memory_encoder import MemoryEncoder

NO_OBJECT_LOGIT = -1024.0  # of every pixel, where the object is not in sight
# A single mask of less stability, at logit +- STABILITY_DELTA, gives way to the best of the multimask outputs.
STABILITY_DELTA, MIN_STABILITY = 0.05, 0.98
MASK_SCALE, MASK_BIAS = 20.0, -10.0  # a mask of 0 to 1 as the memory encoder sees it, and a mask prompt as logits


@dataclass(frozen=True)
class FrameFeatures:
    """Frames as the memory meets them: features (G, C, E, E) and their positions (1, C, E, E), and finer features."""

    features: Tensor
    positions: Tensor
    skips: Skips


@dataclass(frozen=True)
class Segmented:
    """B objects on a frame."""

    logits: Tensor  # (B, 4E, 4E)
    object_score: Tensor  # (B,), above 0 if the object is in sight
    predicted_iou: Tensor  # (B,)
    pointer: Tensor  # (B, C)


class Sam2(nn.Module):
    """The methods up to `predict_masks` are image mode, those after it one frame of video mode."""

    def __init__(
        self,
        config: Sam2Config,
        image_encoder: ImageEncoder,
        memory_attention: MemoryAttention,
        memory_encoder: MemoryEncoder,
        sam_prompt_encoder: PromptEncoder,
        sam_mask_decoder: MaskDecoder,
    ) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = image_encoder
        self.memory_attention = memory_attention
        self.memory_encoder = memory_encoder
        self.sam_prompt_encoder = sam_prompt_encoder
        self.sam_mask_decoder = sam_mask_decoder
        width, memory_dim = config.neck_dim, config.memory_dim
        self.maskmem_tpos_enc = _embedding(config.num_maskmem, 1, 1, memory_dim)
        self.no_mem_embed = _embedding(1, 1, width)
        self.no_mem_pos_enc = _embedding(1, 1, width)  # in every checkpoint, but unused with their settings
        self.no_obj_ptr = _embedding(1, width)
        if config.no_obj_embed_spatial:
            self.no_obj_embed_spatial = _embedding(1, memory_dim)
        self.mask_downsample = nn.Conv2d(1, 1, kernel_size=4, stride=4)
        self.obj_ptr_proj = Mlp(width, width, width, num_layers=3)
        if config.add_tpos_enc_to_obj_ptrs:
            self.obj_ptr_tpos_proj = nn.Linear(width, memory_dim)

    @property
    def device(self) -> torch.device:
        return self.no_mem_embed.device

    @property
    def dtype(self) -> torch.dtype:
        return self.no_mem_embed.dtype

    @property
    def prompt_encoder(self) -> PromptEncoder:
        return self.sam_prompt_encoder

    @property
    def mask_decoder(self) -> MaskDecoder:
        return self.sam_mask_decoder

    def input_shape(self, height: int, width: int) -> tuple[int, int]:
        """To what an image is resized before `preprocess`: squeezed to a square, whatever its shape."""
        return self.config.image_size, self.config.image_size

    def mask_frame(self, height: int, width: int) -> tuple[int, tuple[int, int]]:
        """As `Sam.mask_frame`: a low-resolution mask is resized to the image in one step."""
        side = 4 * self.config.embedding_size
        return side, (side, side)

    def preprocess(self, images: Tensor) -> Tensor:
        """RGB (B, 3, S, S), 0..255 -> normalised. Raises ValueError for another size: SAM 2 pads nothing."""
        size = self.config.image_size
        if images.shape[-2:] != (size, size):
            raise ValueError(f"images: {tuple(images.shape[-2:])} is not the model's input; resize to {size} x {size}")
        mean, std = torch.tensor([self.config.pixel_mean, self.config.pixel_std], device=self.device).view(2, 3, 1, 1)
        return ((images.to(self.device) - mean) / std).to(self.dtype)

    def embed(self, pixels: Tensor) -> list[EmbeddedImage]:
        """Preprocessed images (B, 3, S, S), each as `decode` takes it."""
        frames = self.encode_frames(pixels)
        embeddings = self.without_memory(frames).split(1)
        return [EmbeddedImage(one, skips) for one, skips in zip(embeddings, frames.skips.split(), strict=True)]

    def decode(self, image: EmbeddedImage, prompts: Prompts) -> DecodedPrompts:
        """B prompts on an image, up to the making of masks."""
        return self._decode(image.embedding, image.skips, prompts)

    def masks(self, decoded: DecodedPrompts, prompt_index: Tensor, mask_index: Tensor) -> Tensor:
        """Logits (K, 4E, 4E), as `MaskDecoder.masks` has them."""
        return self.sam_mask_decoder.masks(decoded, prompt_index, mask_index)

    def predict_masks(self, image: EmbeddedImage, prompts: Prompts, multimask_output: bool) -> tuple[Tensor, Tensor]:
        """Low-resolution logits (B, M, 4E, 4E) and predicted IoU (B, M) of B prompts; M is 1, or
        `num_multimask_outputs` with `multimask_output`."""
        decoded = self.decode(image, prompts)
        if not multimask_output:
            logits, predicted_iou = self._single_mask(decoded)
            return logits[:, None], predicted_iou[:, None]
        slots = torch.arange(1, self.sam_mask_decoder.num_mask_tokens, device=self.device)
        prompt_index = torch.arange(len(prompts), device=self.device).repeat_interleave(len(slots))
        logits = self.masks(decoded, prompt_index, slots.repeat(len(prompts)))
        return logits.unflatten(0, (len(prompts), -1)), decoded.predicted_iou[:, 1:]

    def encode_frames(self, pixels: Tensor) -> FrameFeatures:
        """Preprocessed frames (G, 3, S, S)."""
        encoded = self.image_encoder(pixels)
        fine, middle, coarse = encoded.features
        return FrameFeatures(coarse, encoded.positions[-1], self.sam_mask_decoder.skips(fine, middle))

    def without_memory(self, frame: FrameFeatures) -> Tensor:
        """The features (G, C, E, E) of an image, or of a frame before anything is remembered."""
        return frame.features + self.no_mem_embed.view(1, -1, 1, 1)

    def with_memory(self, frame: FrameFeatures, recalls: Sequence[Recall], num_pointers: int) -> Tensor:
        """The features of a frame as B objects' memories, all of one structure, show it: (B, C, E, E).

        `num_pointers` is the number of a frame's pointers at most, which their positions are relative to.
        """
        steps_back, distances = recalls[0].structure
        kept = [torch.cat([features.to(self.dtype) for _, features in recall.frames]) for recall in recalls]
        memory = torch.stack(kept)  # (B, T*N, M)
        table = self.maskmem_tpos_enc[
            [steps - 1 for steps in steps_back], 0
        ]  # (T, 1, M), the last for a prompted frame
        height, width = frame.features.shape[2:]
        places = sine_positions(memory.shape[2], height, width, memory)[0].flatten(1).T  # (N, M)
        memory_pe = (places + table).flatten(0, 1)  # (T*N, M)
        num_tokens = 0
        if distances:
            pointers = torch.stack([torch.stack([pointer for _, pointer in recall.pointers]) for recall in recalls])
            tokens = pointers.unflatten(2, (-1, memory.shape[2])).flatten(1, 2)  # (B, P*C/M, M)
            num_tokens = tokens.shape[1]
            times = self._pointer_positions(distances, num_pointers).repeat_interleave(num_tokens // len(distances), 0)
            memory, memory_pe = torch.cat([memory, tokens], dim=1), torch.cat([memory_pe, times])
        return self.memory_attention(frame.features, frame.positions, memory, memory_pe[None], num_tokens)

    def segment(self, image: Tensor, skips: Skips, prompts: Prompts | None, num_objects: int = 1) -> Segmented:
        """B objects, B the number of prompts, or `num_objects` where memory alone says which are meant.

        image: (B or 1, C, E, E). No prompt and a single point may mean several things, of which the best is chosen; a
        box or more points (two or more, with which a box is counted) leave one.
        """
        if prompts is None:
            labels = torch.full((num_objects, 1), -1, device=self.device)
            prompts = Prompts(points=torch.zeros(num_objects, 1, 2, device=self.device), labels=labels)
        num_points = 0 if prompts.labels is None else prompts.labels.shape[1]
        decoded = self._decode(image, skips, prompts)
        assert decoded.object_score is not None
        everyone = torch.arange(len(prompts), device=self.device)
        if num_points + (2 if prompts.boxes is not None else 0) <= 1:
            predicted_iou, best = decoded.predicted_iou[:, 1:].max(1)
            logits, token = self.masks(decoded, everyone, best + 1), decoded.mask_tokens[everyone, best + 1]
        else:
            logits, predicted_iou = self._single_mask(decoded)
            token = decoded.mask_tokens[:, 0]
        appears = decoded.object_score > 0
        logits = torch.where(appears[:, None, None], logits.float(), NO_OBJECT_LOGIT)
        return Segmented(logits, decoded.object_score, predicted_iou, self.pointer(token, appears))

    def segment_as(self, frame: FrameFeatures, masks: Tensor) -> Segmented:
        """B objects whose masks (B, 1, S, S), 0 or 1, are given: the masks are the answer, and make pointers."""
        labels = torch.full((len(masks), 1), -1, device=self.device)
        points = torch.zeros(len(masks), 1, 2, device=self.device)
        prompts = Prompts(points=points, labels=labels, masks=self.mask_downsample(masks.to(self.dtype)))
        decoded = self._decode(frame.features, frame.skips, prompts)
        assert decoded.object_score is not None
        pointer = self.pointer(decoded.mask_tokens[:, 0], decoded.object_score > 0)
        appears = masks.flatten(1).any(1)
        pointer = torch.where(appears[:, None], pointer, self.no_obj_ptr)
        logits = MASK_SCALE * masks.float() + MASK_BIAS
        size = (masks.shape[-1] // 4,) * 2
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=False, antialias=True)[:, 0]
        score = MASK_SCALE * appears.to(logits.dtype) + MASK_BIAS
        return Segmented(logits, score, torch.ones_like(score), pointer)

    def remember(self, frame: FrameFeatures, segmented: Segmented, prompted: bool) -> Tensor:
        """The memories (B, N, M) of B objects on a frame, bfloat16 as published code keeps them.

        Masks that somebody prompted are seen as yes or no, others as probabilities.
        """
        size = (self.config.image_size,) * 2
        masks = F.interpolate(segmented.logits[:, None], size, mode="bilinear", align_corners=False)
        masks = (masks > 0).to(self.dtype) if prompted else masks.sigmoid().to(self.dtype)
        memory = self.memory_encoder(frame.features, MASK_SCALE * masks + MASK_BIAS).flatten(2).transpose(1, 2)
        if self.config.no_obj_embed_spatial:
            memory = memory + (segmented.object_score <= 0)[:, None, None] * self.no_obj_embed_spatial
        return memory.to(torch.bfloat16)

    def _decode(self, image: Tensor, skips: Skips | None, prompts: Prompts) -> DecodedPrompts:
        sparse, dense = self.sam_prompt_encoder(prompts)
        return self.sam_mask_decoder.attend(image, self.sam_prompt_encoder.dense_pe(), sparse, dense, skips)

    def _single_mask(self, decoded: DecodedPrompts) -> tuple[Tensor, Tensor]:
        """Logits (B, 4E, 4E) and predicted IoU (B,) of the single mask or, where not stable, of the best other."""
        everyone = torch.arange(len(decoded.mask_tokens), device=self.device)
        logits, predicted_iou = self.masks(decoded, everyone, torch.zeros_like(everyone)), decoded.predicted_iou[:, 0]
        if self.training:
            return logits, predicted_iou
        inner = (logits > STABILITY_DELTA).sum((1, 2))
        outer = (logits > -STABILITY_DELTA).sum((1, 2))
        unstable = everyone[(outer > 0) & (inner / outer < MIN_STABILITY)]
        best_iou, best = decoded.predicted_iou[unstable, 1:].max(1)
        others = self.masks(decoded, unstable, best + 1).to(logits.dtype)  # no mask at all has no autocast type
        logits = logits.index_copy(0, unstable, others)
        return logits, predicted_iou.index_copy(0, unstable, best_iou)

    def pointer(self, token: Tensor, appears: Tensor) -> Tensor:
        return torch.where(appears[:, None], self.obj_ptr_proj(token), self.no_obj_ptr)

    def _pointer_positions(self, distances: Sequence[int], num_pointers: int) -> Tensor:
        """(P, M): how far away each pointer's frame is, in SAM 2.1; nothing in 2.0."""
        if not self.config.add_tpos_enc_to_obj_ptrs:
            return self.no_mem_embed.new_zeros(len(distances), self.config.memory_dim)
        half = self.config.neck_dim // 2
        frequencies = 10_000.0 ** (-(torch.arange(half, device=self.device) // 2 * 2) / half)
        relative = torch.tensor(distances, device=self.device) / max(1, num_pointers - 1)
        angles = relative[:, None] * frequencies  # (P, C / 2)
        return self.obj_ptr_tpos_proj(torch.cat([angles.sin(), angles.cos()], dim=1).to(self.dtype))


def _embedding(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.zeros(shape), std=0.02))
