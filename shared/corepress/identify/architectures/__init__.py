"""One walk per architecture: every parameter with its names, its shape and its cut.

Completeness, shapes and the mapping between layouts all follow from these walks. Beside each walk
stands its inverse: the sizes that a checkpoint in the original layout was built with.
"""
