"""Masks a second in training: this trainer against a plain loop around the official modules, alternating.

    .venv/bin/python -m benchmarks.training_throughput --official-python /tmp/official/bin/python

Both take the same sizes (`--checkpoint`), random pixels and masks, prompts of one point and clicks after it, the loss
of the paper, AdamW. The loop runs in fp32, as one writes it first, and this trainer as the recipes do, in bf16; with
`--fp32` too in fp32. What this trainer saves: all images' prompts in one decoder call, where each image is projected
once for its prompts and re-associated products project only tokens; gradients that gather on the image embedding;
channels last where masks are made. Masks per second of processor time, which a busy machine leaves alone.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from benchmarks.table import markdown_table
from models.sam.build import build_sam
from models.sam.config import SamConfig
from models.training.augment import Example
from models.training.interactive import PromptSettings
from models.training.trainer import Trainer, TrainerSettings
from models.weights import load_sam


def train(sizes: SamConfig, job: dict[str, int], bf16: bool) -> float:
    """Masks a second of processor time in `job["steps"]` steps after one that warms up."""
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    prompts = PromptSettings(num_prompts=job["prompts"], box_share=0, num_clicks=job["rounds"] - 1, num_refinements=0)
    settings = TrainerSettings(num_steps=job["steps"] + 1, images_per_pass=job["images"], bf16=bf16, prompts=prompts)
    trainer = Trainer(build_sam(sizes), settings)
    frame, side = sizes.image_size, 4 * sizes.embedding_size
    examples = [
        Example(
            torch.randint(0, 256, (3, frame, frame), dtype=torch.uint8),
            torch.rand(job["prompts"], side, side) > 0.8,
            torch.ones(job["prompts"]),
            "noise",
        )
        for _ in range(job["images"])
    ]
    trainer.step(examples)
    started = time.process_time()
    num_masks = sum(trainer.step(examples).num_masks for _ in range(job["steps"]))
    return num_masks / (time.process_time() - started)


def train_officially(python: str, sizes: SamConfig, job: dict[str, int]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps({**job, "sizes": json.loads(sizes.to_json())}), encoding="utf-8")
        script = Path(__file__).with_name("official_train.py")
        done = subprocess.run([python, str(script), str(path)], check=True, capture_output=True, text=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official-python", required=True, help="interpreter of an environment with segment-anything")
    parser.add_argument("--checkpoint", default="sam_tiny", help="whose sizes to train")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=16, help="an image")
    parser.add_argument("--steps", type=int, default=3, help="measured, after one that warms up")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fp32", action="store_true", help="both in fp32")
    args = parser.parse_args()
    sizes = load_sam(args.checkpoint)[0].config
    rows = []
    for rounds in (1, 3):
        job = {name: getattr(args, name) for name in ("images", "prompts", "steps", "threads")} | {"rounds": rounds}
        official, ours = [], []
        for _ in range(args.repeats):
            official.append(train_officially(args.official_python, sizes, job))
            ours.append(train(sizes, job, bf16=not args.fp32))
        ratio = median(ours) / median(official)
        spread = f"{min(ours) / max(official):.2f}-{max(ours) / min(official):.2f}"
        rows.append([str(rounds - 1), f"{median(official):.0f}", f"{median(ours):.0f}", f"{ratio:.2f}", spread])
    print(markdown_table(["clicks", "official masks/s", "ours masks/s", "ratio", "spread"], rows))


if __name__ == "__main__":
    main()
