"""What is shown and taken home. Records are computed from a study's results and then rendered as
text, JSON, figures or folders. Only `export` and `publish` measure on the test text.
"""
