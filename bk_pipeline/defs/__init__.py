"""The Dagster shell: assets, resources, sensors. Thin: all work is done by `pipeline`."""
