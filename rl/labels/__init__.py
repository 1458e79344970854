"""Bodies that are learned from without scores: labelled scenes, and pseudo-labels of images without labels."""
