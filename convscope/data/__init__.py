"""A user's photos: what there is (sources, scan), which go where (split), and how they reach the network (loading)."""
