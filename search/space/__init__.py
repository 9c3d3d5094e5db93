"""What a study samples: recipes with ranges in place of values. Begin with `space.space`, which
has the language; `answerers` has everyone who can answer what a space asks.
"""
