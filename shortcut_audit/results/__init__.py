"""What the tool can claim: settings, findings, provenance, and how they are kept on disk."""
