"""How sure a model's mask logits should be, and setting that without changing any mask.

Temperature scaling (Guo et al. 2017, arXiv:1706.04599) of the mask logits. Focal loss leaves them small, so that hardly
any mask reaches a stability score, which is the IoU of a mask at logits of -1 and 1, however good it is.
"""

import numpy as np
import torch
from torch import Tensor

from models.evaluation.prompts import points_and_boxes
from models.generator.generate import resize_longest_side
from models.masks.rle import decode_masks
from models.sam.model import Sam
from models.sam.prompts import Prompts
from models.training.augment import fit_masks
from models.training.losses import balanced_cross_entropy, mask_iou

SCALES = tuple(float(scale) for scale in np.geomspace(0.25, 16, 25))


class SharpnessTally:
    """The best scale for the multimask outputs, asked by points, and for the single one, asked by boxes."""

    def __init__(self) -> None:
        self._losses = np.zeros((2, len(SCALES)))
        self._num_masks = 0

    @torch.inference_mode()
    def add(self, sam: Sam, image: np.ndarray, truths: list[bytes], prompts_per_batch: int) -> None:
        """image: (H, W, 3) uint8 RGB; truths: COCO compressed run lengths of its masks, none empty."""
        height, width = image.shape[:2]
        frame, side = sam.config.image_size, 4 * sam.config.embedding_size
        resized = resize_longest_side(image, frame)
        masks = decode_masks(truths, height, width)
        cells, kept = fit_masks(masks, resized.shape[:2], frame, side, min_cells=1, max_share=1.0)
        scale = torch.tensor([resized.shape[1] / width, resized.shape[0] / height])
        points, boxes = points_and_boxes([truths[index] for index in kept], height, width)
        points, boxes = points * scale, (boxes.view(-1, 2, 2) * scale).flatten(1)
        embedding = sam.encode_images(sam.preprocess(torch.from_numpy(resized).permute(2, 0, 1)[None]))
        for start in range(0, len(kept), prompts_per_batch):
            block = slice(start, start + prompts_per_batch)
            truth = torch.from_numpy(cells[block]).float()
            labels = torch.ones(len(truth), 1, dtype=torch.int64)
            by_point = Prompts(points=points[block, None], labels=labels)
            for index, prompts in enumerate((by_point, Prompts(boxes=boxes[block]))):
                logits, _ = sam.predict_masks(embedding, prompts, multimask_output=index == 0)
                self._losses[index] += _losses(logits, truth)
        self._num_masks += len(kept)

    def scales(self) -> tuple[float, float]:
        """For the multimask outputs and for the single one. Raises ValueError if there was no mask."""
        if not self._num_masks:
            raise ValueError("no mask to fit a scale to; give labelled images with masks")
        multi, single = (SCALES[int(row.argmin())] for row in self._losses)
        return multi, single


def _losses(logits: Tensor, truth: Tensor) -> np.ndarray:
    """For each scale the sum over prompts of the best output's loss: (B, M, H, W) and (B, H, W) -> (S,)."""
    best = mask_iou(logits, truth[:, None].expand_as(logits)).argmax(dim=1)
    chosen = logits[torch.arange(len(logits)), best]
    return np.array([float(balanced_cross_entropy(chosen * scale, truth).sum()) for scale in SCALES])


@torch.no_grad()
def sharpen_masks(sam: Sam, multimask: float, single: float) -> None:
    """Multiplies the mask logits of the multimask outputs and of the single one."""
    for slot, network in enumerate(sam.mask_decoder.output_hypernetworks_mlps):
        for parameter in list(network.parameters())[-2:]:  # weight and bias of the last layer
            parameter.mul_(multimask if slot else single)
