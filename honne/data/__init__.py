"""Prepared data sets: readers, manifest, transforms, sampling, loading, and the synthetic world."""
