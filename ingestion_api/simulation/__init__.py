"""Back-testing a plan: what customers would have paid under it, beside what they did pay."""
