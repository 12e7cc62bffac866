"""New decisions for stored rows, without SAM: filters replayed, tags and captions renewed, part by part."""
