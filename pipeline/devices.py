"""Where a command computes that does without workers."""

import torch


def own_device() -> torch.device:
    """This process's GPU if it has one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
