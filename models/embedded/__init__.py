"""Small weights that ship with the repository, one safetensors file a model; read by `models.weights`."""
