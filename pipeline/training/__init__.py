"""`maskfoundry train`: labelled images and datasets in, checkpoints and exported weights out."""
