"""What faithfulness measures: one score a file, and the maps that are blind to the network."""
