"""Fit the head that predicts a mask's IoU again, on a model whose masks stay as they are.

The head is a small network on one output token (segment-anything `modeling/mask_decoder.py`), so a labelled set's
tokens are made once and the fit takes seconds. Next to the published squared error (Kirillov et al. 2023, appendix A)
it pays for what a user loses by taking the mask that it rates best: the expected IoU below the best of the outputs,
under a softmax of the predictions.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.sam.model import Sam
from models.sam.prompts import Prompts
from models.sam2.model import Sam2
from models.sam2.segmenter import attend_prompts
from models.training.augment import Example
from models.training.clicks import mask_boxes, random_points
from models.training.losses import mask_iou

MASKS_PER_IMAGE = 48
EPOCHS = 12
BATCH = 512
LEARNING_RATE = 5e-4
WEIGHT_DECAY = 0.05
CHOICE_WEIGHT, CHOICE_SHARPNESS = 0.3, 8.0
Finish = Callable[[Tensor], Tensor]  # what a decoder makes of its head's outputs
HELD_OUT = 10  # one image of so many is not fitted to, and judges


@dataclass(frozen=True)
class IouFit:
    """On held-out images, before and after: the mean squared error of the predicted IoU and, with one point a mask,
    the true IoU of the output that is rated best; `best` is what the best of the outputs would give."""

    error_before: float
    error_after: float
    chosen_before: float
    chosen_after: float
    best: float
    num_masks: int


@dataclass(frozen=True)
class _Answers:
    """`tokens` (N, C), what the head reads; `true_iou` (N, T), that of every output; `by_box` (N,), else by point."""

    tokens: Tensor
    true_iou: Tensor
    by_box: Tensor


def fit_iou_head(sam: Sam | Sam2, examples: Iterable[Example], seed: int = 0) -> IouFit:
    """Fits `sam`'s IoU head to `examples`, of which every tenth image judges; no mask changes.

    Outputs 1 and more learn from one random point a mask, output 0 from one box, which is what each is for. Raises
    ValueError where fewer than two images have masks, or where the fit is worse than the head was, which then stays.
    """
    generator = torch.Generator(device=sam.device).manual_seed(seed)
    answers: dict[str, list[_Answers]] = {}
    for example in examples:
        if len(example.masks):
            answers.setdefault(example.name, []).append(_ask(sam, example, generator))
    names = sorted(answers)
    if len(names) < 2:
        raise ValueError(f"data: {len(names)} images with masks, and one must judge; give a labelled set of hundreds")
    judged = _join([one for name in names[::HELD_OUT] for one in answers[name]])
    fitted = _join([one for place, name in enumerate(names) if place % HELD_OUT for one in answers[name]])
    head, finish = sam.mask_decoder.iou_prediction_head, sam.mask_decoder.finish_ratings
    new = copy.deepcopy(head).requires_grad_(True)
    _fit(new, finish, fitted, generator)
    error_before, chosen_before = _judge(head, finish, judged)
    error_after, chosen_after = _judge(new, finish, judged)
    if error_after >= error_before:
        raise ValueError(
            f"data: fitted to {len(fitted.tokens)} masks, predicted IoU is worse on held-out ones (squared error "
            f"{error_before:.4f} → {error_after:.4f}); give more labelled images"
        )
    head.load_state_dict(new.state_dict())
    best = float(judged.true_iou[~judged.by_box, 1:].amax(dim=1).mean())
    total = len(fitted.tokens) + len(judged.tokens)
    return IouFit(error_before, error_after, chosen_before, chosen_after, best, total)


@torch.no_grad()
def _ask(sam: Sam | Sam2, example: Example, generator: torch.Generator) -> _Answers:
    """A point and a box for some of the example's masks, what the IoU head reads then, and how good each output is."""
    frame, device = sam.config.image_size, sam.device
    drawn = torch.randperm(len(example.masks), generator=generator, device=device)[:MASKS_PER_IMAGE]
    masks = example.masks.to(device)[drawn]
    points = random_points(masks, frame, generator)[0][:, None]
    labels = torch.ones(len(masks), 1, dtype=torch.int64, device=device)
    (embedded,) = sam.embed(sam.preprocess(example.image[None].to(device)))
    tokens: list[Tensor] = []
    listener = sam.mask_decoder.iou_prediction_head.register_forward_pre_hook(lambda _, given: tokens.append(given[0]))
    true_iou = []
    try:
        for prompts in (
            Prompts(points=points, labels=labels),
            Prompts(boxes=mask_boxes(masks, frame)),
        ):
            decoded = attend_prompts(sam, embedded, prompts)
            num_outputs = decoded.mask_tokens.shape[1]
            every = torch.cartesian_prod(torch.arange(len(masks)), torch.arange(num_outputs)).to(device)
            logits = sam.mask_decoder.masks(decoded, every[:, 0], every[:, 1]).unflatten(0, (-1, num_outputs))
            true_iou.append(mask_iou(logits, masks[:, None].float().expand_as(logits)))
    finally:
        listener.remove()
    by_box = torch.tensor([False, True], device=device).repeat_interleave(len(masks))
    return _Answers(torch.cat(tokens).float(), torch.cat(true_iou), by_box)


def _join(parts: list[_Answers]) -> _Answers:
    columns = zip(*((one.tokens, one.true_iou, one.by_box) for one in parts), strict=True)
    return _Answers(*(torch.cat(column) for column in columns))


def _fit(head: nn.Module, finish: Finish, answers: _Answers, generator: torch.Generator) -> None:
    optimizer = torch.optim.AdamW(head.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    num_steps = EPOCHS * -(-len(answers.tokens) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for _ in range(num_steps):
        drawn = torch.randint(len(answers.tokens), (BATCH,), generator=generator, device=answers.tokens.device)
        predicted, true, by_box = finish(head(answers.tokens[drawn])), answers.true_iou[drawn], answers.by_box[drawn]
        squares = (predicted - true).square()
        points = squares[~by_box, 1:]
        choice = torch.softmax(CHOICE_SHARPNESS * predicted[~by_box, 1:], dim=1)
        lost = (choice * (true[~by_box, 1:].amax(dim=1, keepdim=True) - true[~by_box, 1:])).sum(dim=1)
        loss = points.sum() / points.shape[1] + squares[by_box, 0].sum() + CHOICE_WEIGHT * lost.sum()
        optimizer.zero_grad()
        (loss / BATCH).backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def _judge(head: nn.Module, finish: Finish, answers: _Answers) -> tuple[float, float]:
    """Mean squared error of the outputs that each prompt is for, and the IoU that points get from the best-rated."""
    predicted, by_box = finish(head(answers.tokens)), answers.by_box
    squares = (predicted - answers.true_iou).square()
    error = torch.cat([squares[by_box, 0], squares[~by_box, 1:].mean(dim=1)]).mean()
    rated = predicted[~by_box, 1:].argmax(dim=1, keepdim=True)
    chosen = answers.true_iou[~by_box, 1:].gather(1, rated).mean()
    return float(error), float(chosen)
