"""`maskfoundry train` with a SAM 2's recipe: labelled pictures and clips in, exported weights out."""
