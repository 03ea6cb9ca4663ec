"""Implementations of the three primitives (row scores, linear row scores, smallest-k), one module each, and the choice among them."""
