"""The rules of a search: which trials go on, what a prior predicts, which limits hold. These are
pure functions of plain records; nothing here opens a file, a database or a model.
"""
