"""Classifiers: pixels in [0,1] in, logits out; and the ways to load one."""
