"""Sealing at rest: where the keys of sealed stores come from, and what is done with them."""
