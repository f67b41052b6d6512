"""What is known before the measurement; one convention: denoise(z, sigma) = E[x | z]."""
