"""One-to-one matching of two sets of masks of the same image."""

import numpy as np


def match_one_to_one(iou: np.ndarray, least: float = 0.0) -> list[tuple[int, int]]:
    """Pairs (row, column) of IoUs (N, M), taken greedily, the highest first; every row and column at most once.

    No pair has an IoU of 0 or below `least`. Equal values are taken in row-major order.
    """
    rows, columns = np.nonzero((iou > 0) & (iou >= least))
    best_first = np.argsort(-iou[rows, columns], kind="stable")
    free_rows, free_columns = np.ones(iou.shape[0], bool), np.ones(iou.shape[1], bool)
    pairs = []
    for row, column in zip(rows[best_first].tolist(), columns[best_first].tolist(), strict=True):
        if free_rows[row] and free_columns[column]:
            free_rows[row] = free_columns[column] = False
            pairs.append((row, column))
    return pairs
