"""SQL: where trials, measurements and slots live. Only this room writes to our tables; Optuna's
own are written by Optuna. A change of a table is a new file in `migrations/versions`.
"""
