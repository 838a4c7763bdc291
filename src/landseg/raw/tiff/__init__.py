"""Reading TIFFs and PNGs that nobody vouches for: checks of the header first, then decoding."""
