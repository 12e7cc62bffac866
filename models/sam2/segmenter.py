"""Either SAM, where it makes no difference which."""

from torch import Tensor

from models.sam.mask_decoder import DecodedPrompts, EmbeddedImage
from models.sam.model import Sam
from models.sam.prompts import Prompts
from models.sam2.model import Sam2


def predict_masks(
    model: Sam | Sam2, image: EmbeddedImage, prompts: Prompts, multimask_output: bool
) -> tuple[Tensor, Tensor]:
    """Low-resolution logits (B, M, 4E, 4E) and predicted IoU (B, M) of B prompts on one image, as the model's own
    `predict_masks`."""
    if isinstance(model, Sam2):
        return model.predict_masks(image, prompts, multimask_output)
    return model.predict_masks(image.embedding, prompts, multimask_output)


def attend_prompts(model: Sam | Sam2, image: EmbeddedImage, prompts: Prompts) -> DecodedPrompts:
    """What the decoder says of B prompts on one image, up to the making of masks."""
    sparse, dense = model.prompt_encoder(prompts)
    places = model.prompt_encoder.dense_pe()
    return model.mask_decoder.attend(image.embedding, places, sparse, dense, image.skips)
