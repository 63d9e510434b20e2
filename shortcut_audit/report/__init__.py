"""Shows results to people: sentences, figures, the page. Reads results only, and never torch."""
