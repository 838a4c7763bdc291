"""What would fail in the midst of a training or at its end, tried before the first batch; it leaves no trace."""
