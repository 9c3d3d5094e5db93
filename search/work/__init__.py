"""Who runs: a sweep starts workers and looks after them, a worker claims slots and measures
trials. Begin with `sweep`.
"""
