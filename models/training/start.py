"""Where training starts: weights of other sizes, and cross-attention that sees a prompt's place from the first step."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.efficientnet import CLASSIFIER_PREFIXES, PIXEL_MEAN, PIXEL_STD, EfficientNetLite0
from models.sam.checkpoints import resize_positions
from models.sam.model import Sam
from models.sam.transformer import Attention
from models.sam2.memory_attention import RotaryAttention
from models.sam2.model import Sam2


@torch.no_grad()
def warm_start(sam: Sam, state: Mapping[str, Tensor]) -> list[str]:
    """Takes over what fits of official weights of other sizes; returns the names of the parameters that kept their own.

    Position tables are interpolated, those of relative positions cut to their middle where a block attends to less.
    Encoder blocks that the weights do not have begin as the identity: their last layers are zero.
    """
    own = sam.state_dict()
    resized = resize_positions(state, sam.config)
    fresh = []
    for name, value in own.items():
        given = resized.get(name)
        if given is not None and "rel_pos" in name and len(given) > len(value):
            start = (len(given) - len(value)) // 2
            given = given[start : start + len(value)]
        if given is not None and given.shape == value.shape:
            value.copy_(given)
        else:
            fresh.append(name)
    for index, block in enumerate(sam.image_encoder.blocks):
        if f"image_encoder.blocks.{index}.attn.qkv.weight" not in state:
            _silence(block)
    return fresh


@torch.no_grad()
def align_cross_attention(sam: Sam | Sam2, gain: float = 2.0) -> None:
    """Makes the query and the key projection of each cross-attention the same orthogonal matrix times `gain`.

    A token then attends, from the first step, to where its own position encoding is; with independent projections,
    fresh weights ignore the prompt's place for hundreds of steps.
    """
    for name, module in sam.mask_decoder.named_modules():
        if isinstance(module, Attention) and not name.endswith("self_attn"):
            nn.init.orthogonal_(module.q_proj.weight, gain)
            module.k_proj.weight.copy_(module.q_proj.weight)


@torch.no_grad()
def pass_pixels(sam: Sam) -> None:
    """Lets a fresh encoder begin by handing the picture through: the mean colours of each patch's cells.

    The first channels of a patch become the mean colours of its 4 x 4 cells (one low-resolution mask pixel each), every
    block starts as the identity, and the neck passes those channels on. Fresh weights otherwise blur a patch and need
    thousands of steps to find its colours again. Constant channels keep the layer norms from cancelling brightness.
    """
    encoder, patch_size = sam.image_encoder, sam.config.patch_size
    cells = 4 if patch_size % 4 == 0 else 1
    side = patch_size // cells
    num_colours, num_constants = 3 * cells**2, 8
    projection, (squeeze, _, mix, _) = encoder.patch_embed.proj, encoder.neck
    assert isinstance(squeeze, nn.Conv2d) and isinstance(mix, nn.Conv2d) and projection.bias is not None
    num_passed = num_colours + num_constants
    if num_passed > min(sam.config.encoder_embed_dim, sam.config.prompt_embed_dim):
        raise ValueError(
            f"prompt_embed_dim: {sam.config.prompt_embed_dim} channels (of {sam.config.encoder_embed_dim}) do not hold "
            f"the {num_passed} that carry the pixels; use a wider model"
        )
    projection.bias.zero_()
    projection.weight[:num_passed] = 0
    projection.weight[num_passed:] *= 0.5
    for colour in range(3):
        for cell in range(cells**2):
            y, x = divmod(cell, cells)
            channel = projection.weight[colour * cells**2 + cell, colour]
            channel[y * side : (y + 1) * side, x * side : (x + 1) * side] = 1 / side**2
    signs = torch.tensor([1.0, -1.0]).repeat(num_constants // 2)
    projection.bias[num_colours:num_passed] = 4 * signs.to(projection.bias)
    for block in encoder.blocks:
        _silence(block)
    squeeze.weight[:num_passed] = 0
    squeeze.weight[:num_passed, :num_passed, 0, 0] = torch.eye(num_passed).to(squeeze.weight)
    mix.weight *= 0.3
    mix.weight[:, :, 1, 1] += torch.eye(len(mix.weight)).to(mix.weight)


def _silence(block: nn.Module) -> None:
    """Makes a transformer block the identity: its branches end in zero."""
    for name in ("attn.proj", "mlp.lin2"):
        layer = block.get_submodule(name)
        assert isinstance(layer, nn.Linear) and layer.bias is not None
        layer.weight.zero_()
        layer.bias.zero_()


@torch.no_grad()
def take_over(model: Sam2, teacher: Sam) -> None:
    """Gives a SAM 2 the prompt encoder and the decoder of a SAM, whose embedding it then has to imitate.

    What SAM 2's decoder has beyond it begins without a say: the finer features add zero. A SAM's predicted IoU is a
    plain number, SAM 2's goes through a sigmoid, so its last layer is stretched to mean about the same from 0.2 to 0.8.
    Raises ValueError, naming the parameter, where the sizes do not fit.
    """
    for part, given in ((model.prompt_encoder, teacher.prompt_encoder), (model.mask_decoder, teacher.mask_decoder)):
        own = part.state_dict()
        for name, value in given.state_dict().items():
            name = name.replace(".mlp.lin1.", ".mlp.layers.0.").replace(".mlp.lin2.", ".mlp.layers.1.")
            if name not in own or own[name].shape != value.shape:
                raise ValueError(
                    f"teacher: its {name} {tuple(value.shape)} does not fit model; give the model the teacher's "
                    "neck_dim (its prompt_embed_dim) and decoder"
                )
            own[name].copy_(value)
    own, last = model.state_dict(), model.config.iou_head_depth - 1
    for name in ("sam_mask_decoder.conv_s0", "sam_mask_decoder.conv_s1"):
        own[f"{name}.weight"].zero_()
        own[f"{name}.bias"].zero_()
    own[f"sam_mask_decoder.iou_prediction_head.layers.{last}.weight"].mul_(4)
    own[f"sam_mask_decoder.iou_prediction_head.layers.{last}.bias"].mul_(4).sub_(2)
    own["no_mem_embed"].zero_()
    for name, value in teacher.image_encoder.neck[-1].state_dict().items():
        own[f"memory_attention.norm.{name}"].copy_(value)


@torch.no_grad()
def take_trunk(model: Sam2, state: Mapping[str, Tensor]) -> None:
    """Gives a SAM 2 the ImageNet weights of its EfficientNet-Lite0, of which the classifier is left out.

    Raises ValueError where the model has another trunk or sees pixels on another scale, and where a weight is missing,
    unknown or of another shape.
    """
    trunk, config = model.image_encoder.trunk, model.config
    if not isinstance(trunk, EfficientNetLite0):
        raise ValueError(f"trunk: these weights are an EfficientNet-Lite0's, model.trunk is {config.trunk}")
    if config.pixel_mean != (PIXEL_MEAN,) * 3 or config.pixel_std != (PIXEL_STD,) * 3:
        raise ValueError(
            f"trunk: these weights see (pixel - {PIXEL_MEAN:g}) / {PIXEL_STD:g}; set model.pixel_mean to "
            f"[{PIXEL_MEAN:g}, {PIXEL_MEAN:g}, {PIXEL_MEAN:g}] and model.pixel_std likewise"
        )
    try:
        trunk.load_state_dict(
            {name: value for name, value in state.items() if not name.startswith(CLASSIFIER_PREFIXES)}
        )
    except RuntimeError as error:
        raise ValueError(f"trunk: not the weights of an EfficientNet-Lite0 ({' '.join(str(error).split())})") from None


@torch.no_grad()
def match_memories(model: Sam2, gain: float = 1.4) -> None:
    """Makes a fresh memory a matcher: from the first step a frame's cells attend to remembered cells that look alike.

    A memory begins as a part of the frame's features (as many channels as it has, by orthonormal rows) with the mask's
    added; each memory attention's query and key projections read the same part, times `gain`. An object is in sight as
    long as nothing else was learnt.
    """
    encoder, width, memory_dim = model.memory_encoder, model.config.neck_dim, model.config.memory_dim
    read = nn.init.orthogonal_(torch.empty(memory_dim, width))
    encoder.pix_feat_proj.weight.copy_(torch.eye(width)[..., None, None])
    encoder.out_proj.weight.copy_(read[..., None, None])
    for layer in model.memory_attention.layers:
        attention = layer.get_submodule("cross_attn_image")
        assert isinstance(attention, RotaryAttention)
        spread = gain * nn.init.orthogonal_(torch.empty(width, memory_dim))
        attention.k_proj.weight.copy_(spread)
        attention.q_proj.weight.copy_(spread @ read)
    for bias in (encoder.pix_feat_proj.bias, encoder.out_proj.bias):
        assert bias is not None
        bias.zero_()
    model.state_dict()["sam_mask_decoder.pred_obj_score_head.layers.2.bias"].fill_(2.0)
