"""What `vjax.bench` measures, one file for each thing."""
