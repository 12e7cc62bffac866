"""The training of CLIP and of the captioner: recipe, labelled views, runs."""
