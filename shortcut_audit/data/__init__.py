"""Images: where they come from, how they are split, and sets with known frequency truth."""
