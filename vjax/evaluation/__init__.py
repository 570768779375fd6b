"""What `vjax.evaluate` asks of a model, how it judges the answers, and where it keeps them."""
