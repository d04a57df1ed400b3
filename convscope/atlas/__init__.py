"""Atlas: one pass over a data set, after which every unit of every layer is known."""
