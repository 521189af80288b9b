"""Pictures of clips and results, and the page that collects them."""
