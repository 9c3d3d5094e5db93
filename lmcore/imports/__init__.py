"""Models that other programs trained: their files, their names and layouts, their words.

Only numbers and names are read from a file; no code in it is ever run.
"""
