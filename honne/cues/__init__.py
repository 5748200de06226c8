"""Spatial action-unit cues: which regions of a face its expression should be read from, drawn as heat maps.

`codebook` says which action units an expression shows, `drawing` draws them for whole batches, `reference` draws them
pixel for pixel as the original does.

Source: Belharbi, Pedersoli, Koerich, Bacon, Granger, "Guided Interpretable Facial Expression Recognition via Spatial
Action Unit Cues", FG 2024, arXiv 2402.00281.
"""
