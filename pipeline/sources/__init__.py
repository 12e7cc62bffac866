"""Where images come from: folders and buckets, tar archives, manifests."""
