"""Kill a run at named points, break its network, and see that it ends whole: ``make chaos``."""
