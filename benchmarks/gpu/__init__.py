"""`make check-gpu`: what only a GPU shows, in one run of less than six minutes (docs/benchmarks.md, "On a GPU")."""
