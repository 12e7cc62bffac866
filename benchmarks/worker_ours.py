"""MaskFoundry's generator and filters, as a recipe with `preset: sam_amg` runs them."""

from typing import Any

import numpy as np

from benchmarks.worker import Generate, Masks, serve
from models.generator.generate import MaskGenerator
from models.weights import load_sam
from pipeline.recipes.load_recipe import validate_recipe
from stages.filter_rules import filter_found


def load(job: dict[str, Any]) -> Generate:
    recipe = validate_recipe(job["recipe"])
    sam, _ = load_sam(recipe.model.checkpoint)
    thresholds = recipe.min_predicted_iou, recipe.min_stability
    generator = MaskGenerator(sam.to(job["device"]), recipe.generate, *thresholds, job["our_points_per_batch"])
    if job["compile"]:
        generator.compile()

    def generate(pixels: np.ndarray) -> Masks:
        filtered = filter_found(generator.generate([pixels])[0], recipe.filter)
        kept = np.flatnonzero(filtered.keep)
        rles = [filtered.rles[index] for index in kept]
        return rles, filtered.predicted_iou[kept].tolist(), filtered.stability_score[kept].tolist()

    return generate


if __name__ == "__main__":
    serve(load)
