"""What the studies that train networks share: photos kept apart, run folders, repeats, architectures' options."""
