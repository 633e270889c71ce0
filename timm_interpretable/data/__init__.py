"""Pictures and data sets in. A leaf: it knows of no attribution, metric or command."""
