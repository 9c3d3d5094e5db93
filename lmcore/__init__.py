"""LSTM language models and the ways to shrink them. Knows nothing of Optuna, Hydra or SQL."""
