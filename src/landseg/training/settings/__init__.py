"""The training settings of a config: checked before anything is built, and reported where not used."""
