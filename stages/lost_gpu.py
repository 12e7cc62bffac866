"""What to do when a GPU is lost to a process."""

import os

import torch


def leave_if_gpu_is_lost(device: torch.device) -> None:
    """End this process if its GPU does not answer any more.

    After an error of the hardware, or an address out of bounds, every later operation of the process fails, and with it
    every later image, faster than any other worker does one. A process that dies is started anew, and `Attempts` notes
    it.
    """
    if device.type != "cuda":
        return
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        os._exit(1)
