"""Masklets from video: the engine's second job, with the runs' own chunks, parts, lease and resume."""
