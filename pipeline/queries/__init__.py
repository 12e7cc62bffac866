"""Questions to a dataset: SQL over its parts, subsets, masks by a sentence."""
