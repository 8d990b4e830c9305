"""Taking one subject out of a whole home, hub's or edge's, and proving it by a search of every byte."""
