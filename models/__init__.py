"""Segmentation and vision-language models in plain torch. Knows neither Ray nor, outside `models.weights`, files."""
