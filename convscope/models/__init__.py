"""Classifiers: any network that takes pixels and gives logits, and every way to get one."""
