"""Captions from CLIP features: a mapping network, a prefix, a small causal transformer (ClipCap's idea)."""
