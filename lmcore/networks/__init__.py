"""Networks beside the language model, one a file: its shape as settings, and the network."""
