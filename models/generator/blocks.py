"""How many prompts the decoder answers at a time."""

import torch

from models.sam.config import SamConfig
from models.sam2.config import Sam2Config

CPU_ENTRIES = 1 << 21  # of the image as the prompts of a block see it: larger blocks leave the cache at every layer
COPIES = 12  # of that image, in fp32, that a GPU holds at once while it attends, upscales and scans
GPU_LEAST = 8  # takes 400 MB at SAM's sizes: whoever leaves less than that free will not do so for long


def prompts_per_block(config: SamConfig | Sam2Config, device: torch.device, at_most: int) -> int:
    """On a CPU as many as its caches serve well, on a GPU as many as fit half of its free memory, and at
    least GPU_LEAST; 1 to `at_most`."""
    entries = config.embedding_size**2 * config.prompt_embed_dim
    fitting = CPU_ENTRIES // entries
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, to be used again
        fitting = max(GPU_LEAST, (free + kept) // 2 // (4 * COPIES * entries))
    return max(1, min(at_most, fitting))
