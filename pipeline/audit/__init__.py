"""People look over a sample of the masks, and how much they changed."""
