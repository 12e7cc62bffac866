"""A dataset on disk or in a bucket: rounds and their parts, the lease, and the upkeep of both."""
