"""Training: from a catalog of photos to a run folder."""
