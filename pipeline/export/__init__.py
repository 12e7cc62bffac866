"""A dataset in other tools' layouts."""
