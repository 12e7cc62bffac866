"""Masks as numbers: run lengths, boxes, clean-up and overlap, in numpy, without a network."""
