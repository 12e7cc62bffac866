"""Objects followed through a clip, whatever model follows them."""
