import sys
from pathlib import Path

# The made-up models of the ensemble's tests serve here too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "ensemble"))
