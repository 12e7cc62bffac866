"""What a person sets: recipes and their schema, presets, vocabularies, and the fingerprint of what decides a result."""
