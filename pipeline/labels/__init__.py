"""What labels from strangers say, checked before it is believed: references, masks, values, orientation."""
