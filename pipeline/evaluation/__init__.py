"""How good a model is on labelled images, and thresholds and scales that follow from it."""
