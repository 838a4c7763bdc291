"""One training by several processes: the team, how it is started and ended, and requests to stop it."""
