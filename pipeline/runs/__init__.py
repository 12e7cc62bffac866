"""`maskfoundry run`: the graph, what it resumes from, what it commits, and the Ray under it."""
