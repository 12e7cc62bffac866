"""`maskfoundry train` with a captioner's recipe: a finished CLIP's features and their captions in, weights out."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.captioner.model import Captioner, CaptionerConfig, caption_loss
from models.clip.tokenizer import ClipTokenizer
from models.training.clip_trainer import clip_parameter_groups
from models.training.optim import learning_rate, set_learning_rate
from models.weights import load_clip, load_clip_tokenizer, save_captioner
from pipeline.clip_training.recipe import CaptionerTrainRecipe
from pipeline.clip_training.views import CAPTION, SCENE, LabelledPicture, read_labelled_views
from pipeline.devices import own_device
from pipeline.errors import TrainingError
from pipeline.progress import progress_bar
from pipeline.training.files import WEIGHTS
from pipeline.training.train import TrainSummary
from stages.embed_masks import MaskEncoder, Regions
from stages.tag_settings import TagSettings
from stages.tagging import views_for

LENGTH_WINDOW = 8  # batches of texts of similar length that a step draws from


def train_captioner(recipe: CaptionerTrainRecipe, quiet: bool = False) -> TrainSummary:
    """Trains and writes OUTPUT/model.safetensors. Raises ValueError for wrong data or a wrong checkpoint, and
    TrainingError when a step's loss is no number."""
    started = time.time()
    torch.set_num_threads(recipe.num_threads)
    clip, clip_sha256 = load_clip(recipe.clip)
    tokenizer = load_clip_tokenizer(recipe.clip, clip.config)
    pictures = read_labelled_views(recipe.data, {CAPTION: "caption"})
    encoder = MaskEncoder(clip.to(own_device()), views_for(TagSettings(checkpoint=recipe.clip)), views_per_batch=128)
    features, texts = _examples(recipe, pictures, encoder, quiet)
    config = CaptionerConfig(
        embed_dim=clip.config.embed_dim,
        vocab_size=clip.config.vocab_size,
        context_length=clip.config.context_length,
        width=recipe.width,
        num_layers=recipe.num_layers,
    )
    torch.manual_seed(recipe.seed)
    captioner = Captioner(config)
    loss = _fit(recipe, captioner, features, texts, tokenizer, quiet)
    path = Path(recipe.output).expanduser() / WEIGHTS
    save_captioner(path, captioner, torch.float16, {"clip_sha256": clip_sha256, "steps": str(recipe.num_steps)})
    return TrainSummary(
        output=recipe.output,
        weights=str(path),
        num_steps_done=recipe.num_steps,
        num_steps=recipe.num_steps,
        num_images=len(pictures),
        num_masks=len(texts),
        seconds=time.time() - started,
        last={"loss": loss},
    )


def _examples(
    recipe: CaptionerTrainRecipe, pictures: list[LabelledPicture], encoder: MaskEncoder, quiet: bool
) -> tuple[torch.Tensor, list[str]]:
    """Features (N, D) of masks and whole images, and their captions."""
    rng = np.random.default_rng(recipe.seed)
    features: list[np.ndarray] = []
    texts: list[str] = []
    with progress_bar("encoding", len(pictures), "images", quiet) as update:
        for done, picture in enumerate(pictures, start=1):
            count = min(recipe.masks_per_image, len(picture.masks))
            chosen = [picture.masks[index] for index in rng.choice(len(picture.masks), count, replace=False)]
            boxes = np.array([view.bbox for view in chosen], np.int32).reshape(-1, 4)
            [(whole, own)] = encoder.encode([Regions(picture.pixels(), [view.rle or b"" for view in chosen], boxes)])
            features.append(own)
            texts += [view.texts[CAPTION] for view in chosen]
            if picture.whole is not None:
                features.append(whole[None])
                texts.append(picture.whole.texts[SCENE])
            update(done, "")
    return torch.from_numpy(np.concatenate(features)), texts


def _fit(
    recipe: CaptionerTrainRecipe,
    captioner: Captioner,
    features: torch.Tensor,
    texts: list[str],
    tokenizer: ClipTokenizer,
    quiet: bool,
) -> float:
    tokens = tokenizer(texts)
    groups: Any = clip_parameter_groups(captioner, recipe.optim.weight_decay)
    optimizer = torch.optim.AdamW(groups, recipe.optim.learning_rate, recipe.optim.betas)
    deviation = recipe.noise / features.shape[1] ** 0.5
    # texts of similar length, so that a step is not as long as the longest of all
    by_length = (tokens == tokenizer.end_of_text).int().argmax(dim=1).argsort()
    window = min(len(texts), LENGTH_WINDOW * recipe.batch_size)
    first_rows = torch.randint(len(texts) - window + 1, (recipe.num_steps,))
    value = float("nan")
    with progress_bar("training", recipe.num_steps, "steps", quiet) as update:
        for step in range(recipe.num_steps):
            set_learning_rate([optimizer], learning_rate(step, recipe.num_steps, recipe.optim))
            rows = by_length[first_rows[step] + torch.randint(window, (recipe.batch_size,))]
            seen = features[rows] + deviation * torch.randn(recipe.batch_size, features.shape[1])
            shown = tokens[rows]
            longest = int((shown == tokenizer.end_of_text).int().argmax(dim=1).max()) + 1
            loss = caption_loss(captioner, seen, shown[:, :longest], tokenizer.end_of_text)
            if not torch.isfinite(loss):
                raise TrainingError(f"the loss of step {step} is {loss.item()}; lower optim.learning_rate")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(captioner.parameters(), recipe.optim.clip_norm)
            optimizer.step()
            value = loss.item()
            update(step + 1, f"loss {value:.3f}")
    captioner.eval()
    return value
