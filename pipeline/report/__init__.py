"""Statistics, tables, figures and the page of an experiment. No torch here, and nothing that needs a network."""
