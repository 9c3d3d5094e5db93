"""Networks beside the language model: of each its shape as settings, and the network."""
