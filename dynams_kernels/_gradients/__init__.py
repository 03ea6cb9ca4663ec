"""Gradients of the scores in closed form, in plain torch: class distances and the choice of classes are constants."""
