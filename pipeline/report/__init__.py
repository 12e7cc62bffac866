"""A dataset as one page for people: figures, charts, failures and pictures with their masks, in a single file."""
