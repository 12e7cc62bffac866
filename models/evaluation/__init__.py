"""Measures of a segmenter against labelled masks: prompted IoU, recall, best overlap, calibration."""
