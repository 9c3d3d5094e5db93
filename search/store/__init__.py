"""SQL: where trials, measurements and slots are stored. A `Reader` reads a database as it is, a
`Store` writes one. Only this room writes to our tables. Optuna writes its own, but for
`Store.widen`, `rename` and `remove`. To change a table, add a file to `migrations/versions`.
"""
