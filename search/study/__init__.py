"""What a study is, how it begins and what it has measured. `context` opens all that belongs to a
study, and is what commands hand along.
"""
