"""Segment Anything 2 (Ravi et al. 2024, arXiv:2408.00714) with the published parameter names: images and clips."""
