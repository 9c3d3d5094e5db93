"""The ways to shrink a model, one method a file.

A method is known by existing: it derives from `Structure` or `Codec` (how a matrix, its values are
stored), from `Pruning` (which values are zero) or from `LayerMethod` (how the layers are reshaped).
docs/adding_a_method.md shows it.
"""
