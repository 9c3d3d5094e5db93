"""What is shown and taken home: records computed from a study's results, and the text, JSON,
figures and folders that they are rendered as. `publish` and `export` measure the test text.
"""
