"""Labelled synthetic scenes: photograph-like images with exact masks, parts and descriptions, made from a seed."""
