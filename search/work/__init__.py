"""Running a study: a sweep starts workers and replaces those that die; a worker claims slots and
measures their trials. Begin with `sweep`.
"""
