"""Which folders of a source hold the images and the labels of which split, and what to say of the other folders."""
