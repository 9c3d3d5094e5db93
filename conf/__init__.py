"""Every knob: Hydra groups, one a noun, and the commands and studies that compose them."""
