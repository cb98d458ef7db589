"""Reports of a run while it trains."""
