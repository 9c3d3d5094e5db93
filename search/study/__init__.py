"""What a study is, how it begins and what it has measured. Begin with `context`: a `StudyContext`
opens everything that belongs to a study, and commands hand it along.
"""
