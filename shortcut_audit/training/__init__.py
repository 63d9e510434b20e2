"""Training of test subjects: small models with a known history."""
