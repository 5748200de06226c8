"""Networks that fuse sequences of several modalities."""
