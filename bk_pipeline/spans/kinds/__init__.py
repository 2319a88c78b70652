"""One module per level of the span tree: the build with its stages, and steps with their jobs."""
