"""What only a dataset as a whole shows: equal images, places that overlap, labels that contradict each other."""
