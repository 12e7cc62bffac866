"""Training a SAM: losses, simulated clicks, augmentation, optimisation. Pure torch and numpy; knows no files."""
