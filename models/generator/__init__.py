"""From an image to candidate masks: crops, point grids, prompts and scores."""
