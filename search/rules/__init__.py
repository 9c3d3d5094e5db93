"""Who decides: which trials go on, what a prior predicts, which limits hold. Pure functions of
plain records; nothing here opens a file, a database or a model.
"""
