"""What only a dataset as a whole shows: like images, places that overlap, labels that contradict each other."""
