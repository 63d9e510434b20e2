"""The Fourier plane of real images: its grid of orbits, its masks and its transforms."""
